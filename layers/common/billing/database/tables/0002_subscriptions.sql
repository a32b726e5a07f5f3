-- Plans, checkouts, subscriptions and entitlements as Commet last reported them. Commet holds the
-- truth; requests are answered from these copies.

create table plans_cache (
    id        integer primary key check (id = 1),
    catalogue jsonb not null,
    as_of     timestamptz not null,
    tried_at  timestamptz                -- when Commet was last asked, whatever it answered
);

-- Lets one request at a time talk to Commet about a user's checkout: the one that holds the lease.
-- No transaction stays open during the call. The attempt number is part of the idempotency key.
create table checkout_attempt (
    user_id          text collate "C" primary key references users (id),
    attempt          bigint not null,
    plan_code        text not null,
    billing_interval text,
    success_url      text not null,
    started_at       timestamptz not null,
    leased_until     timestamptz,
    subscription_id  text collate "C"      -- null until Commet has answered
);

create table subscriptions (
    id                   text collate "C" primary key,
    user_id              text collate "C" not null references users (id),
    status               text not null,
    plan_id              text collate "C",
    plan_name            text,
    billing_interval     text,               -- null on a free plan
    period_start         timestamptz,
    period_end           timestamptz,
    cancel_at_period_end boolean not null default false,
    trial_ends_at        timestamptz,
    checkout_url         text,
    created_at           timestamptz not null,
    event_at             timestamptz not null,  -- when the newest change applied here occurred
    known_at                 jsonb not null default '{}',  -- event_at by column, as epoch seconds
    version              bigint not null default 1,
    confirmed_at         timestamptz,           -- when Commet itself last confirmed the row
    checked_at           timestamptz,           -- when Commet was last asked, whatever it answered
    checks               integer not null default 0,  -- questions of waiting callers, unconfirmed
    refresh_due          timestamptz,           -- not null: something is known to be missing
    -- When the schedule asks Commet again although nothing happened, by the database's clock. The
    -- time is random by a tenth, so customers who came on one day are not all asked about in one
    -- minute.
    recheck_at           timestamptz default now() + interval '1 day' * (0.9 + 0.2 * random()),
    -- Questions of the schedule, unconfirmed. They are counted apart from `checks`, so neither count
    -- makes the pauses of the other longer.
    background_checks    integer not null default 0
);
create index subscriptions_user_id on subscriptions (user_id);
-- One index for each reason to ask Commet about a row (routines/refresh.sql). Each holds only the
-- rows that can come due for that reason.
create index subscriptions_marked on subscriptions (refresh_due) where refresh_due is not null;
create index subscriptions_period_end on subscriptions (period_end)
    where status in ('active', 'trialing', 'past_due');
create index subscriptions_recheck on subscriptions (recheck_at) where status <> 'canceled';
create index subscriptions_live on subscriptions (id)
    where status in ('active', 'trialing', 'past_due', 'paused');

create table entitlements (
    user_id         text collate "C" not null references users (id),
    feature         text collate "C" not null,
    name            text not null,
    unit            text,
    type            text not null,            -- boolean, usage, seats, quota
    model           text,                     -- metered, credits, balance; usage features only
    allowed         boolean not null,
    included        numeric(21,6),
    unlimited       boolean not null default false,
    overage_enabled boolean not null default false,
    unit_price      numeric(21,6),            -- rate scale: 10000 = 1.00
    currency        text,
    event_at        timestamptz not null,
    version         bigint not null default 1,
    primary key (user_id, feature)
);
