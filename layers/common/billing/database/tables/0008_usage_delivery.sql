-- What became of usage at Commet: in doubt, lost, differing, corrected, and long ago.

-- kind: 'event' is growth, sent as a usage event; 'set' replaces Commet's total (PUT /usage);
-- 'credit' is what a period that is over was billed too much; 'merged' stands for many that were
-- sent long ago. All but 'event' may be negative, and the sum is what of the total is claimed.
alter table usage_delivery
    add column kind text not null default 'event'
        check (kind in ('event', 'set', 'credit', 'merged')),
    add column answered_at timestamptz,           -- when Commet took it, on billing's clock
    add column compare_at  timestamptz,           -- in doubt: when totals are compared again
    add column excess      numeric(21,6),         -- of a credit: what Commet billed too much
    add column amount      numeric(21,6),         -- the money it is about, in major units
    add column currency    text,
    add column resolved_at timestamptz,           -- a human has dealt with it outside
    add column note        text;

-- Everything of a user that is not done, to know what is in flight of one feature.
drop index usage_delivery_parked;
create index usage_delivery_unsent on usage_delivery (user_id, feature) where state <> 'sent';
create index usage_delivery_parked on usage_delivery (reason, period) where state = 'parked';
-- Waiting for the totals to be compared: sent and never confirmed, or sent around the end of a
-- period, when it is not known which one Commet booked it in.
create index usage_delivery_compare on usage_delivery (user_id, compare_at)
    where compare_at is not null;
-- Booked by Commet in another period than the one it was counted in here.
create index usage_delivery_moved on usage_delivery (billed_period, feature)
    where billed_period <> period;
update usage_delivery set billed_period = period where state = 'sent';

alter table usage_total
    add column held_until timestamptz,            -- nothing is claimed of it: a 'set' is under way
    -- The terms its period ended with, once they have changed: what usage of it was worth.
    add column included   numeric(21,6),          -- null: unlimited
    add column unit_price numeric(21,6),          -- null: nothing beyond it was billed; rate scale
    add column currency   text,
    add column terms_at   timestamptz;            -- null: the entitlement still holds them

-- Totals that differ from Commet's, until they agree again.
create table usage_drift (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    user_id    text collate "C" not null,
    ours       numeric(21,6) not null,            -- what we know Commet was told
    theirs     numeric(21,6) not null,            -- what Commet says
    found_at   timestamptz not null,
    checked_at timestamptz not null,
    repair     text check (repair in ('asked', 'sent', 'refused')),
    reason     text,                              -- Commet's code, where the repair was refused
    primary key (period, feature)
);
create index usage_drift_user_id on usage_drift (user_id);
create index usage_drift_asked on usage_drift (period) where repair = 'asked';

-- The keys of ledger rows that are gone (docs/decisions/0015). Two hashes side by side, so that
-- the keys of one user lie together: 48 bits of the user, 80 of the key.
create table usage_key (
    key         uuid primary key,
    fingerprint uuid not null
);

alter table usage_period add column compacted_at timestamptz;  -- its sent deliveries are merged
create index usage_period_uncompacted on usage_period (closed_at)
    where closed_at is not null and compacted_at is null;
