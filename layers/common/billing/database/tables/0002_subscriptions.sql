-- What Commet told us: a mirror that answers every request. Commet holds the truth.

create table plans_cache (
    id        integer primary key check (id = 1),
    catalogue jsonb not null,
    as_of     timestamptz not null,
    tried_at  timestamptz                -- when Commet was last asked, whatever came of it
);

-- Serialises checkout per user without holding anything across a call to Commet: whoever gets
-- the lease talks to Commet, and the attempt number feeds its idempotency key.
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
    event_at             timestamptz not null,  -- when the newest news applied here occurred
    told                 jsonb not null default '{}',  -- the same by column, as epoch seconds
    version              bigint not null default 1,
    confirmed_at         timestamptz,           -- when Commet itself last said so
    checked_at           timestamptz,           -- when Commet was last asked, whatever came of it
    checks               integer not null default 0,  -- asked in a row without being confirmed
    refresh_due          timestamptz            -- not null: something is known to be missing
);
create index subscriptions_user_id on subscriptions (user_id);
create index subscriptions_refresh_due on subscriptions (refresh_due);

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

-- What usage is counted in: Commet's allowance period. It has an id of its own because a plan
-- change, a reactivation or a new subscription opens another one, even on the same day.
create table usage_period (
    id              bigint generated always as identity primary key,
    user_id         text collate "C" not null references users (id),
    subscription_id text collate "C" not null,
    plan_id         text collate "C",
    starts_at       timestamptz not null,
    ends_at         timestamptz not null,
    provisional     boolean not null default false,  -- opened by us because Commet was silent
    opened_at       timestamptz not null default now(),
    closed_at       timestamptz,
    check (starts_at < ends_at)
);
create unique index usage_period_one_open on usage_period (user_id) where closed_at is null;
create index usage_period_user_id on usage_period (user_id, starts_at);

create table webhook_events (
    id          text collate "C" primary key,
    type        text not null,
    mode        text,
    customer    text collate "C",
    occurred_at timestamptz,
    received_at timestamptz not null default now(),
    payload     bytea,                        -- bytes as signed: jsonb refuses some JSON
    status      text not null check (status in
                ('applied', 'ignored', 'failed', 'dead', 'unreadable')),
    attempts    integer not null default 1,
    due_at      timestamptz,                  -- when reconcile looks at it again
    error       text
);
create index webhook_events_due_at on webhook_events (due_at) where due_at is not null;
