-- Usage: periods, the ledger, its running totals, and reservations.
--
-- One writer per user: whoever changes what is counted for a user first locks that user's row.
-- Several users are always locked in the order of their ids, as record_change does. Under that lock
-- nothing about the user changes, so limits, duplicates and periods are decided by reading, and no
-- two batches can deadlock. Deliveries are claimed without the lock: rows that another run has
-- locked are skipped, so claiming never waits.

-- Usage is counted in Commet's allowance period. A period has an id of its own because a plan
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
    compacted_at    timestamptz,              -- when its sent deliveries were merged
    check (starts_at < ends_at)
);
create unique index usage_period_one_open on usage_period (user_id) where closed_at is null;
create index usage_period_user_id on usage_period (user_id, starts_at);
create index usage_period_uncompacted on usage_period (closed_at)
    where closed_at is not null and compacted_at is null;

-- The ledger. The key is the caller's own, so sending an event again finds the first one.
-- No foreign keys: the user's lock already guarantees what they would check, and the check of the
-- period alone took 6 ms of a batch of 1,000 that takes 20 without it.
create table usage_event (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,
    fingerprint     bytea not null,           -- of what the caller supplied
    feature         text collate "C" not null,
    quantity        numeric(15,6) not null,
    occurred_at     timestamptz not null,
    booked_at       timestamptz not null,
    period          bigint not null,          -- usage_period.id
    late            boolean not null,         -- occurred before that period
    kind            text not null default 'event' check (kind in ('event', 'correction', 'confirm')),
    reason          text,
    author          text,
    properties      jsonb,
    -- A correction of a closed period: Commet takes no correction there, so a person has to give
    -- the money back.
    needs_credit    boolean not null default false,
    primary key (user_id, idempotency_key)
);
-- The ledger in the order of booking: of one user, by their periods, and of all users. Neither
-- index may start with the user: before the table has statistics, a planner would take such an index
-- for the primary key and read everything a user ever did to find one key. Rows of the same moment
-- are sorted while reading: with the key in them these indexes would be as large as the primary key.
create index usage_event_period_booked on usage_event (period, booked_at);
create index usage_event_booked on usage_event (booked_at);

-- The keys of ledger rows that are gone (docs/decisions/0014). Two hashes side by side, so that
-- the keys of one user lie together: 48 bits of the user, 80 of the key.
create table usage_key (
    key         uuid primary key,
    fingerprint uuid not null
);

-- The sum of the ledger by period and feature. The row is written often and updated in place (HOT):
-- no index may cover total or claimed. `fully_claimed` changes once in the life of a row, so an index on
-- it costs nothing and keeps the search for growth away from every period that is finished.
create table usage_total (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    total      numeric(21,6) not null check (total >= 0),
    claimed    numeric(21,6) not null default 0,
    seq        integer not null default 0,        -- of the newest delivery
    claimed_at timestamptz,
    fully_claimed    boolean not null default false,    -- period closed, everything claimed
    claims_paused_until timestamptz,                       -- no claims until then: a replacement is under way
    -- The terms its period ended with, once they have changed: they price usage of that period.
    included   numeric(21,6),                     -- null: unlimited
    unit_price numeric(21,6),                     -- null: nothing beyond was billed; rate scale
    currency   text,
    terms_at   timestamptz,                       -- null: the entitlement still holds the terms
    carried    numeric(21,6) not null default 0,  -- booked here, counted in an earlier period
    primary key (period, feature)
) with (fillfactor = 70);
create index usage_total_not_fully_claimed on usage_total (period, feature) where not fully_claimed;
-- Totals that are being replaced: few, and looked up by every claim.
create index usage_total_claims_paused on usage_total (feature, period) where claims_paused_until = 'infinity';

-- By the UTC day of booking; the days add up to the total exactly.
create table usage_daily (
    period   bigint not null,
    feature  text collate "C" not null,
    day      date not null,
    quantity numeric(21,6) not null,
    primary key (period, feature, day)
) with (fillfactor = 70);

-- A reservation counts against the limit while it is 'held' and has not expired, by the clock handed
-- in; no job has to run for that. Confirming books under the reservation's own key, so a unit of
-- work is counted once whether it is confirmed, reported directly, or both.
create table usage_reservation (
    id              text collate "C" primary key,
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,
    fingerprint     bytea not null,           -- of what the caller supplied
    feature         text collate "C" not null,
    quantity        numeric(15,6) not null check (quantity > 0),
    properties      jsonb,
    created_at      timestamptz not null,
    expires_at      timestamptz not null,
    state           text not null default 'held' check (state in
                    ('held', 'confirmed', 'released', 'expired')),
    booked          numeric(15,6),            -- the quantity that was booked, once confirmed
    concluded_at    timestamptz,
    -- The user comes second, so that no planner uses this index to find a user's reservations.
    unique (idempotency_key, user_id),
    check ((state = 'confirmed') = (booked is not null))
);
create index usage_reservation_held on usage_reservation (user_id, feature) where state = 'held';
create index usage_reservation_expires_at on usage_reservation (expires_at);

-- The credit that a correction of a closed period needs, as its author was told. The answer to a
-- correction that is sent again is the same, whatever else happened to that period since. A table of
-- its own, because few entries of the ledger have a credit.
create table usage_credit (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,    -- of the correction
    quantity        numeric(15,6) not null check (quantity > 0),
    amount          numeric(21,6),                -- in major units; null: its price is not known
    currency        text,
    primary key (user_id, idempotency_key)
);
