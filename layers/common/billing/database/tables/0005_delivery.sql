-- The outbox: deliveries of usage to Commet, and totals that differ from Commet's.

-- kind: 'event' is growth, sent as a usage event; 'replacement' replaces Commet's total (PUT /usage);
-- 'credit' is what Commet billed too much in a closed period; 'merged' stands for many that were
-- sent long ago. All but 'event' may be negative, and their sum is usage_total.claimed.
create table usage_delivery (
    period          bigint not null,
    feature         text collate "C" not null,
    seq             integer not null,
    user_id         text collate "C" not null,
    quantity        numeric(21,6) not null,
    event_id        text collate "C" not null,    -- Commet counts one id once; it never changes
    generation      integer not null default 1,   -- with event_id: the idempotency key
    body            text not null,                -- JSON, the same bytes at every attempt
    state           text not null default 'pending' check (state in ('pending', 'sent', 'parked')),
    reason          text,                         -- why it is parked
    claimed_at      timestamptz not null default now(),
    due_at          timestamptz not null default now(),
    attempts        integer not null default 0,
    uncertain_since timestamptz,                  -- first attempt whose outcome may be unknown
    sent_at         timestamptz,
    remote_id       text,
    billed_period   bigint,                       -- where Commet booked it, once known
    kind            text not null default 'event'
                    check (kind in ('event', 'replacement', 'credit', 'merged')),
    answered_at     timestamptz,                  -- when Commet took it, on billing's clock
    compare_at      timestamptz,                  -- in doubt: when totals are compared again
    excess          numeric(21,6),                -- of a credit: what Commet billed too much
    amount          numeric(21,6),                -- the money at stake, in major units
    currency        text,
    resolved_at     timestamptz,                  -- when a person dealt with it elsewhere
    note            text,
    doubted_at      timestamptz,                  -- sent; later we heard of a period that may hold it
    primary key (period, feature, seq)
);
create index usage_delivery_due on usage_delivery (due_at) where state = 'pending';
-- Everything of a user that is not sent, to know which deliveries of one feature are in flight.
create index usage_delivery_unsent on usage_delivery (user_id, feature) where state <> 'sent';
create index usage_delivery_parked on usage_delivery (reason, period) where state = 'parked';
-- Deliveries that wait for the totals to be compared: sent and never confirmed, or sent around the
-- end of a period, when it is not known in which one Commet booked them.
create index usage_delivery_compare on usage_delivery (user_id, compare_at)
    where compare_at is not null;
-- Deliveries that Commet booked in another period than the one they were counted in here.
create index usage_delivery_moved on usage_delivery (billed_period, feature)
    where billed_period <> period;
-- Deliveries that were sent and whose period at Commet is not known: few.
create index usage_delivery_unplaced on usage_delivery (user_id, feature)
    where state = 'sent' and billed_period is null;

-- Totals that differ from Commet's, until they agree again.
create table usage_drift (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    user_id    text collate "C" not null,
    ours       numeric(21,6) not null,            -- the quantity we know Commet received
    theirs     numeric(21,6) not null,            -- the quantity Commet reports
    found_at   timestamptz not null,
    checked_at timestamptz not null,
    repair     text check (repair in ('asked', 'sent', 'refused')),
    reason     text,                              -- Commet's code, where the repair was refused
    primary key (period, feature)
);
create index usage_drift_user_id on usage_drift (user_id);
create index usage_drift_asked on usage_drift (period) where repair = 'asked';

-- Pending deliveries that got no answer, by their first attempt: few, except while Commet is silent.
create index usage_delivery_unanswered on usage_delivery (uncertain_since)
    where state = 'pending' and uncertain_since is not null;
