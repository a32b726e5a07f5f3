-- The mirror: copies of plans, checkouts, subscriptions and entitlements, as Commet last reported
-- them. Requests are answered from these copies. If a copy differs from Commet, Commet is right.

create table plans_cache (
    id        integer primary key check (id = 1),
    catalogue jsonb not null,
    as_of     timestamptz not null,
    tried_at  timestamptz                -- when Commet was last asked, with or without an answer
);

-- The currencies in which Commet charges a plan, each with the first user who was charged in it.
create table charged_currency (
    plan_id  text collate "C" not null,
    currency text collate "C" not null,
    user_id  text collate "C" not null,
    seen_at  timestamptz not null default now(),
    primary key (plan_id, currency)
);

-- Lets only one request at a time call Commet about a user's checkout: the request that has the
-- lease. No transaction is open during the call. The number `attempt` is part of the idempotency
-- key.
create table checkout_attempt (
    user_id          text collate "C" primary key references users (id) on update cascade,
    attempt          bigint not null,
    plan_code        text not null,
    billing_interval text,
    success_url      text not null,
    skips_trial      boolean not null,
    started_at       timestamptz not null,
    leased_until     timestamptz,
    subscription_id  text collate "C"      -- null until Commet has answered
);

-- Changes of plan that were shown to a user, and the outcome of those that the user confirmed.
create table plan_change (
    id               text collate "C" primary key,  -- names the confirmation
    user_id          text collate "C" not null references users (id) on update cascade,
    subscription_id  text collate "C" not null,
    old_plan_id      text not null,
    old_interval     text,                 -- null on a free plan
    plan_id          text not null,
    billing_interval text,
    currency         text not null,
    is_immediate     boolean not null,
    net_price        bigint,               -- the new price less the credit, in minor units
    due_now          bigint not null,      -- as it was shown, in minor units, like the next two
    credit           bigint not null,
    then_price       bigint,               -- null: Commet did not state it
    effective_at     timestamptz,          -- when the change takes effect; null if not known
    expires_at       timestamptz not null,
    begun_at         timestamptz,          -- when Commet was first asked to perform it
    outcome          jsonb                 -- null until Commet has answered
);
create index plan_change_user_id on plan_change (user_id);
create index plan_change_expires_at on plan_change (expires_at);

-- Lets only one request at a time ask Commet to change a user's plan.
create table plan_change_lease (
    user_id      text collate "C" primary key references users (id) on update cascade,
    plan_change  text collate "C" not null,
    leased_until timestamptz not null
);

-- What Commet last said about each of its customers (routines/customers.sql).
create table customers (
    id           text collate "C" primary key,  -- Commet's id
    external_id  text collate "C",       -- the id of ours that Commet has for the customer, if any
    changed_at   timestamptz,            -- Commet's time of external_id; null: not known yet
    -- True: Commet gave our id to somebody else's customer, because the addresses are the same. The
    -- user gets nothing of such a customer.
    by_email     boolean not null default false,
    approved_for text collate "C",       -- the user for whom an operator adopted the customer
    approved_by  text,
    approved_note text,
    due_at       timestamptz             -- when the schedule asks Commet who the customer is
);
create index customers_external_id on customers (external_id) where external_id is not null;
create index customers_approved_for on customers (approved_for) where approved_for is not null;
create index customers_due_at on customers (due_at) where due_at is not null;

-- Users whose address or name has changed, and Commet was not told yet.
create table contact_change (
    user_id      text collate "C" primary key references users (id) on update cascade on delete cascade,
    version      bigint not null default 1,   -- grows with each change
    due_at       timestamptz default now(),   -- null: Commet refused this version
    leased_until timestamptz,                 -- until then, only one run tells Commet
    refused      text                         -- Commet's code
);
create index contact_change_due_at on contact_change (due_at) where due_at is not null;

create table subscriptions (
    id                   text collate "C" primary key,
    user_id              text collate "C" not null references users (id) on update cascade,
    status               text not null,
    plan_id              text collate "C",
    plan_name            text,
    billing_interval     text,               -- null on a free plan
    period_start         timestamptz,
    period_end           timestamptz,
    cancel_at_period_end boolean not null default false,
    -- A change of plan that is booked: {plan_id, plan_name, interval, effective_at}. Null: none.
    scheduled_change     jsonb,
    trial_ends_at        timestamptz,
    had_trial            boolean not null default false,  -- a trial has begun; never set back
    -- The subscription was canceled or paused while a payment was overdue.
    ended_overdue        boolean not null default false,
    -- When the last pause began and ended. resumed_at is null while the pause lasts.
    paused_at            timestamptz,
    resumed_at           timestamptz,
    checkout_url         text,
    created_at           timestamptz not null,
    -- The newest time at which Commet named this user as the owner. An older change gives the
    -- subscription to nobody else.
    owned_at             timestamptz,
    changed_at             timestamptz not null,  -- when the newest change applied here occurred
    -- For each column, the time of the change that wrote it, in epoch seconds.
    known_at             jsonb not null default '{}',
    version              bigint not null default 1,
    confirmed_at         timestamptz,           -- when an answer of Commet last confirmed the row
    -- when Commet answered that it does not know the id; else null
    unknown_at           timestamptz,
    checked_at           timestamptz,  -- when Commet was last asked, with or without an answer
    -- How many times a request has asked Commet since the row last changed.
    checks               integer not null default 0,
    -- Not null: the row is marked, because something in it is known to be missing or wrong. The
    -- schedule asks Commet at this time.
    refresh_due          timestamptz,
    -- When the schedule asks Commet again although nothing happened, by the database's clock. The
    -- time varies by a tenth at random, so that Commet is not asked in one minute about all
    -- customers who came on one day.
    recheck_at           timestamptz default now() + interval '1 day' * (0.9 + 0.2 * random()),
    -- How many times the schedule has asked. It is not counted in `checks`, so that neither kind of
    -- question lengthens the pauses of the other.
    background_checks    integer not null default 0
);
create index subscriptions_user_id on subscriptions (user_id);
-- One index for each reason to ask Commet about a row (routines/refresh.sql). Each has only the
-- rows that can become due for that reason.
create index subscriptions_marked on subscriptions (refresh_due) where refresh_due is not null;
create index subscriptions_period_end on subscriptions (period_end)
    where status in ('active', 'trialing', 'past_due');
create index subscriptions_recheck on subscriptions (recheck_at) where status <> 'canceled';
create index subscriptions_live on subscriptions (id)
    where status in ('active', 'trialing', 'past_due', 'paused');

create table entitlements (
    user_id         text collate "C" not null references users (id) on update cascade,
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
    changed_at        timestamptz not null,
    version         bigint not null default 1,
    primary key (user_id, feature)
);
