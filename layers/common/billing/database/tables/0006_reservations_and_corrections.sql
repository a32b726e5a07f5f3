-- Holding an amount before the work, correcting what was booked, and reading the ledger in order.

-- A hold counts against the limit while it is 'held' and has not expired, by the clock handed in;
-- nothing has to run for that. Confirming books under the reservation's own key, so a unit of work
-- is counted once whether it is confirmed, reported directly, or both.
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
    booked          numeric(15,6),            -- what it really took, once confirmed
    concluded_at    timestamptz,
    -- The user comes second, so that nobody looks for what a user holds in here.
    unique (idempotency_key, user_id),
    check ((state = 'confirmed') = (booked is not null))
);
create index usage_reservation_held on usage_reservation (user_id, feature) where state = 'held';
create index usage_reservation_expires_at on usage_reservation (expires_at);

-- A period that is closed cannot be corrected at Commet: somebody has to give the money back.
alter table usage_event add needs_credit boolean not null default false;

-- The ledger in the order of booking: of one user, by their periods, and of all. None may start
-- with the user: before the table has statistics, a planner would take it for the primary key and
-- look through everything a user ever did to find one key. Ties are sorted while reading: with
-- the key in them these indexes would be as large as the primary key.
create index usage_event_period_booked on usage_event (period, booked_at);
create index usage_event_booked on usage_event (booked_at);
