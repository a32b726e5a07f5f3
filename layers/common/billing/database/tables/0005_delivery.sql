-- The outbox, which holds deliveries of usage to Commet, and totals that differ from Commet's.

-- `kind` says what a delivery is:
--   event        growth of a total, sent as a usage event
--   replacement  replaces Commet's total by ours (PUT /usage)
--   credit       what Commet billed too much, or too little, in a period that is over; never sent
--   merged       the sum of many deliveries that were sent long ago
-- `quantity` may be negative for all kinds but 'event'. The quantities of a total's deliveries add
-- up to usage_total.claimed.
create table usage_delivery (
    period          bigint not null,
    feature         text collate "C" not null,
    seq             integer not null,
    user_id         text collate "C" not null,
    quantity        numeric(21,6) not null,
    event_id        text collate "C" not null,    -- never changes; Commet counts one id once
    generation      integer not null default 1,   -- event_id:generation is the idempotency key
    body            text not null,                -- JSON, the same bytes at every attempt
    state           text not null default 'pending' check (state in ('pending', 'sent', 'parked')),
    reason          text,                         -- why it is parked
    claimed_at      timestamptz not null default now(),
    due_at          timestamptz not null default now(),
    waits           boolean not null default false,  -- until due_at; false also while leased
    attempts        integer not null default 0,
    uncertain_since timestamptz,                  -- the first attempt that may have had an effect
    sent_at         timestamptz,
    remote_id       text,                         -- Commet's id of it
    billed_period   bigint,                       -- the period Commet booked it in, once known
    kind            text not null default 'event'
                    check (kind in ('event', 'replacement', 'credit', 'merged')),
    answered_at     timestamptz,                  -- when Commet took it, by the clock passed in
    compare_at      timestamptz,                  -- not null: in doubt; totals are compared then
    excess          numeric(21,6),                -- of a credit: the quantity billed too much;
                                                  -- below zero: too little
    amount          numeric(36,6),                -- what it is worth, in major units
    currency        text,
    resolved_at     timestamptz,                  -- when a person dealt with it elsewhere
    note            text,
    -- When a placed delivery came in doubt: we heard late of a period that may contain it.
    doubted_at      timestamptz,
    -- Of a delivery that was claimed before its interval was over: when that would have been, and
    -- what the user's unclaimed overage was worth. Until then other deliveries come first.
    early_until     timestamptz,
    early_value     numeric(36,6),
    primary key (period, feature, seq)
);
create index usage_delivery_due on usage_delivery (due_at) where state = 'pending';
-- All deliveries of a user that are not sent: says whether any of a feature is in flight.
create index usage_delivery_unsent on usage_delivery (user_id, feature) where state <> 'sent';
create index usage_delivery_parked on usage_delivery (reason, period) where state = 'parked';
-- Deliveries in doubt, which wait for totals to be compared. Either no answer ever said that Commet
-- took them, or they were sent around the end of a period and may be booked on either side of it.
create index usage_delivery_compare on usage_delivery (user_id, compare_at)
    where compare_at is not null;
-- Deliveries that Commet booked in another period than the one they were counted in here.
create index usage_delivery_moved on usage_delivery (billed_period, feature)
    where billed_period <> period;
-- Sent deliveries that are not placed: few.
create index usage_delivery_unplaced on usage_delivery (user_id, feature)
    where state = 'sent' and billed_period is null;

-- Totals that differ from Commet's, until they agree again.
create table usage_drift (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    user_id    text collate "C" not null,
    ours       numeric(21,6) not null,            -- sum of our deliveries booked in the period
    theirs     numeric(21,6) not null,            -- the total that Commet reports
    found_at   timestamptz not null,
    checked_at timestamptz not null,
    repair     text check (repair in ('asked', 'sent', 'refused')),
    reason     text,                              -- why the repair was refused
    primary key (period, feature)
);
create index usage_drift_user_id on usage_drift (user_id);
create index usage_drift_asked on usage_drift (period) where repair = 'asked';

-- Pending deliveries that got no answer, by their first attempt: few, unless Commet is down.
create index usage_delivery_unanswered on usage_delivery (uncertain_since)
    where state = 'pending' and uncertain_since is not null;

-- Users whose unclaimed overage is worth enough to be claimed in the next run, whatever the interval.
-- `value` is what it was worth when the user was noted.
create table overage_due (
    user_id  text collate "C" primary key,
    value    numeric(36,6) not null,
    noted_at timestamptz not null default now()
);
