-- The mirror: plans, checkouts, subscriptions and entitlements as Commet last reported them. What
-- Commet says is the truth; requests are answered from these copies.

create table plans_cache (
    id        integer primary key check (id = 1),
    catalogue jsonb not null,
    as_of     timestamptz not null,
    tried_at  timestamptz                -- when Commet was last asked, whether or not it answered
);

-- Lets only one request at a time call Commet about a user's checkout: the one that has the lease.
-- No transaction stays open during the call. The number `attempt` is part of the idempotency key.
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
    -- For each column, the time of the change that wrote it, in epoch seconds.
    known_at             jsonb not null default '{}',
    version              bigint not null default 1,
    confirmed_at         timestamptz,           -- when an answer of Commet last confirmed the row
    checked_at           timestamptz,           -- when Commet was last asked, answer or not
    -- How often Commet was asked for a waiting caller since the row last changed.
    checks               integer not null default 0,
    -- Not null: the row is marked, because something is known to be missing in it or wrong. The
    -- schedule asks Commet at this time.
    refresh_due          timestamptz,
    -- When the schedule asks Commet again although nothing happened, by the database's clock. The
    -- time is random by a tenth, so customers who came on one day are not all asked about in one
    -- minute.
    recheck_at           timestamptz default now() + interval '1 day' * (0.9 + 0.2 * random()),
    -- Like `checks`, for the questions of the schedule. There are two counts, so that neither kind
    -- of question lengthens the pauses of the other.
    background_checks    integer not null default 0
);
create index subscriptions_user_id on subscriptions (user_id);
-- One index for each reason to ask Commet about a row (routines/refresh.sql). Each contains only
-- the rows that can become due for that reason.
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
    unit_price      numeric(21,6),            -- of overage, in the rate scale: 10000 is 1.00
    currency        text,
    event_at        timestamptz not null,
    version         bigint not null default 1,
    primary key (user_id, feature)
);
