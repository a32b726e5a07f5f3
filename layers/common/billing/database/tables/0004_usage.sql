-- Usage: periods, the ledger, its running totals, and reservations.
--
-- The rules of locking. There is one writer per user: a statement that changes a user's ledger,
-- totals, periods or reservations first locks the user's row in `users`. A statement about several
-- users locks them in the order of their ids, so no two statements deadlock. `record_change` takes
-- the same lock. While a routine has this lock, no other routine changes these rows of the user, so
-- it can read them to decide about limits, duplicates and periods. Deliveries are claimed without
-- this lock: `claim` skips totals that another run has locked, so it never waits.

-- Usage is counted in Commet's allowance periods. A period has an id of its own because a plan
-- change, a reactivation or a new subscription opens another period, even on the same day.
create table usage_period (
    id              bigint generated always as identity primary key,
    user_id         text collate "C" not null references users (id) on update cascade,
    subscription_id text collate "C" not null,
    plan_id         text collate "C",
    is_free         boolean not null default false,  -- of a subscription without a price
    is_trial        boolean not null default false,
    starts_at       timestamptz not null,
    ends_at         timestamptz not null,
    provisional     boolean not null default false,  -- opened by us before Commet reported it
    opened_at       timestamptz not null default now(),
    closed_at       timestamptz,
    compacted_at    timestamptz,              -- when its sent deliveries were merged
    -- Only in the first paid period after a trial or free plan: usage before `paid_from` belongs to
    -- `free_period`.
    paid_from       timestamptz,
    free_period     bigint references usage_period (id),
    -- Once this amount is spent, spend thresholds are checked again; null: no threshold lies ahead.
    spend_look_at   numeric default 0,
    check (starts_at < ends_at)
);
create unique index usage_period_one_open on usage_period (user_id) where closed_at is null;
create index usage_period_user_id on usage_period (user_id, starts_at);
create index usage_period_paid_from on usage_period (user_id, paid_from)
    where paid_from is not null;
create index usage_period_uncompacted on usage_period (closed_at)
    where closed_at is not null and compacted_at is null;

-- The free periods that the user left early, after using a part of the included quantity, each
-- beside the free period that followed. The quantity used in `earlier` lowers the quantity that is
-- left in `period`, until `until`, which is when `earlier` would have ended. These rows have no
-- other effect.
create table earlier_free_period (
    period  bigint not null references usage_period (id),
    earlier bigint not null references usage_period (id),
    until   timestamptz not null,
    primary key (period, earlier)
);

-- The ledger. Callers choose the idempotency keys, so an event that is sent again finds its row. A
-- key is unique per user and feature, so several features may count the same unit of work. There
-- are no foreign keys, because the user's lock already guarantees that the rows fit. Checking a
-- foreign key on the period would add 6 ms to a batch of 1,000 events, which takes 20 ms.
create table usage_event (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,
    fingerprint     bytea not null,           -- hash of all that the caller supplied
    feature         text collate "C" not null,
    quantity        numeric(21,6) not null,
    occurred_at     timestamptz not null,
    booked_at       timestamptz not null,
    period          bigint not null,          -- usage_period.id
    late            boolean not null,         -- occurred before that period
    kind            text not null default 'event'
                    check (kind in ('event', 'correction', 'confirm')),
    reason          text,
    author          text,
    properties      jsonb,
    -- True for a correction of a period that was over when the correction was booked: Commet takes
    -- no correction of that period, so a person has to give the money back. usage_credit has the
    -- present state.
    needs_credit    boolean not null default false,
    primary key (user_id, idempotency_key, feature)
);
-- Two indexes read the ledger in the order of booking: one in a period, one of all users. Neither
-- may start with user_id: before the table has statistics, the planner would prefer such an index
-- to the primary key, and read all entries of a user to find one key. Neither contains the
-- idempotency key, because it would then be as large as the primary key. Entries of the same moment
-- are sorted while they are read.
create index usage_event_period_booked on usage_event (period, booked_at);
create index usage_event_booked on usage_event (booked_at);

-- The keys of ledger rows that were pruned (docs/decisions/0014). `key` is made of two hashes, so
-- that the keys of one user lie together: 48 bits of the hash of the user, and 80 bits of the hash
-- of user, feature and key.
create table usage_key (
    key         uuid primary key,
    fingerprint uuid not null
);

-- The sum of the ledger by period and feature. A row is updated often. Postgres updates it in place
-- (a HOT update) as long as no index contains the changed columns, so no index may contain `total`
-- or `claimed`. `fully_claimed` seldom changes, so an index on it costs nothing. That index lets
-- the search for growth skip every finished period.
create table usage_total (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    total      numeric(21,6) not null check (total >= 0),
    claimed    numeric(21,6) not null default 0,
    seq        integer not null default 0,        -- number of the newest delivery
    claimed_at timestamptz,
    fully_claimed boolean not null default false, -- the period is closed and everything claimed
    -- Until this time nothing is claimed: a replacement waits to begin, or is pending ('infinity').
    claims_paused_until timestamptz,
    replace_after timestamptz,  -- the next replacement begins after this; null: any time
    -- The terms that price this period's usage, copied when the entitlement got others
    -- (keep_terms).
    included   numeric(21,6),                     -- null: unlimited
    unit_price numeric(21,6),                     -- rate scale; 0: no overage; null: not known
    currency   text,
    terms_at   timestamptz,                       -- when they were copied; null: never
    carried    numeric(21,6) not null default 0,  -- counted in an earlier period, booked here
    -- The part of `total` that is never delivered: usage of a trial or free plan that was not
    -- delivered when the period was over, and usage of that period that was reported later.
    withheld   numeric(21,6) not null default 0,
    -- Once this quantity is used, `carried` included, usage thresholds are checked again; null: no
    -- threshold lies ahead.
    look_at    numeric default 0,
    primary key (period, feature)
) with (fillfactor = 70);
create index usage_total_not_fully_claimed on usage_total (period, feature) where not fully_claimed;
-- Totals with a pending replacement. There are few, and every claim reads them.
create index usage_total_claims_paused on usage_total (feature, period)
    where claims_paused_until = 'infinity';

-- The ledger's sums by the UTC day on which the usage occurred (day_of_use). The days of a total
-- add up to the total exactly.
create table usage_daily (
    period    bigint not null,
    feature   text collate "C" not null,
    day       date not null,
    -- More digits than in a total: corrections may take more off one day than a total can be.
    quantity  numeric(36,6) not null,
    late      numeric(36,6) not null default 0,  -- the part that occurred before the period
    corrected numeric(36,6) not null default 0,  -- what corrections added or took off
    primary key (period, feature, day)
) with (fillfactor = 70);

-- A reservation counts against the limit while its state is 'held' and `expires_at` is later than
-- the time that the caller passes in. So no job has to run when it expires. Confirming books under
-- the reservation's own key, so the work counts once, whether it is confirmed, reported directly
-- with the same key, or both.
create table usage_reservation (
    id              text collate "C" primary key,
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,
    fingerprint     bytea not null,           -- hash of all that the caller supplied
    feature         text collate "C" not null,
    quantity        numeric(21,6) not null check (quantity > 0),
    properties      jsonb,
    created_at      timestamptz not null,
    expires_at      timestamptz not null,
    state           text not null default 'held' check (state in
                    ('held', 'confirmed', 'released', 'expired')),
    booked          numeric(21,6),            -- the quantity that was booked, once confirmed
    concluded_at    timestamptz,
    -- The user comes second, so that the planner never uses this index to find a user's
    -- reservations.
    unique (idempotency_key, user_id, feature),
    check ((state = 'confirmed') = (booked is not null))
);
create index usage_reservation_held on usage_reservation (user_id, feature) where state = 'held';
-- The other reservations of a user, for the export and the erasure. Held ones are left out, so that
-- the planner never uses this index to find a key or the held quantity.
create index usage_reservation_ended on usage_reservation (user_id, id) where state <> 'held';
create index usage_reservation_expires_at on usage_reservation (expires_at);

-- The credit that a correction needs, because its period was over when it was booked, or was over
-- before Commet's total was lowered. If the same correction is sent again, it is answered with this
-- credit. Quantity 0: no credit is needed after all. This is a table of its own, because few ledger
-- entries have a credit.
create table usage_credit (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,    -- of the correction
    feature         text collate "C" not null,
    quantity        numeric(21,6) not null check (quantity >= 0),
    -- In major units. Null while we do not know what Commet billed, or at which price.
    amount          numeric(36,6),
    currency        text,
    primary key (user_id, idempotency_key, feature)
);
