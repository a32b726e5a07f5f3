-- was: d49c3f206c0fefb2a9cc1fdd3f1ec60dcdddb70ee96ff11d8c0922b1fc14a6e8
-- The functions that were here are routines now.
-- Usage: the ledger, its running totals, and what of them has been sent to Commet.
--
-- One writer per user: whoever changes what is counted for a user first locks that user's row,
-- always several in the order of their ids, as record_news does. Under that lock nothing about
-- the user moves, so limits, duplicates and periods are decided by reading, and no two batches can
-- deadlock. Deliveries are claimed without it: they never wait for anybody (skip locked).

-- The ledger. The key is the caller's own, so sending an event again finds the first one.
-- No foreign keys: the lock above already guarantees what they would check, and the check of the
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
    primary key (user_id, idempotency_key)
);

-- What the ledger adds up to. A hot row, updated in place (HOT): no index may cover total or
-- claimed. `settled` changes once in the life of a row, so an index on it costs nothing and keeps
-- the search for growth away from every period that is over and done.
create table usage_total (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    total      numeric(21,6) not null check (total >= 0),
    claimed    numeric(21,6) not null default 0,
    seq        integer not null default 0,        -- of the newest delivery
    claimed_at timestamptz,
    settled    boolean not null default false,    -- period closed, everything claimed
    primary key (period, feature)
) with (fillfactor = 70);
create index usage_total_unsettled on usage_total (period, feature) where not settled;

-- By the UTC day of booking; sums exactly to the total.
create table usage_daily (
    period   bigint not null,
    feature  text collate "C" not null,
    day      date not null,
    quantity numeric(21,6) not null,
    primary key (period, feature, day)
) with (fillfactor = 70);

create table usage_delivery (
    period          bigint not null,
    feature         text collate "C" not null,
    seq             integer not null,
    user_id         text collate "C" not null,
    quantity        numeric(21,6) not null,
    event_id        text collate "C" not null,    -- what Commet counts it once by; never changes
    generation      integer not null default 1,   -- with event_id: the idempotency key
    body            text not null,                -- JSON, sent as it is every time
    state           text not null default 'pending' check (state in ('pending', 'sent', 'parked')),
    reason          text,                         -- why it is parked
    claimed_at      timestamptz not null default now(),
    due_at          timestamptz not null default now(),
    attempts        integer not null default 0,
    uncertain_since timestamptz,                  -- first attempt whose outcome we may not know
    sent_at         timestamptz,
    remote_id       text,
    billed_period   bigint,                       -- where Commet booked it, once known
    primary key (period, feature, seq)
);
create index usage_delivery_due on usage_delivery (due_at) where state = 'pending';
create index usage_delivery_parked on usage_delivery (user_id) where state = 'parked';
