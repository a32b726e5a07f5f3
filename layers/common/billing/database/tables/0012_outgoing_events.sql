-- Outgoing events: facts that products and people are told (docs/events.md).

-- The outbox. The statement that makes an event true also inserts it (emit_event), so the event
-- exists exactly if that statement was committed.
create table outgoing_event (
    id          uuid primary key default gen_random_uuid(),
    entry       bigint generated always as identity,  -- the order of inserting
    -- No foreign key: when an erasure replaces the user's id, Postgres would check it once for each
    -- event.
    user_id     text collate "C" not null,
    type        text collate "C" not null check (type ~ '^[a-z_]+\.[a-z_]+$'),
    occurred_at timestamptz not null,        -- when it became true
    data        jsonb not null check (jsonb_typeof(data) = 'object'),
    inserted_at timestamptz not null default now(),
    -- Null until the inserting transaction is committed and place_events has run. Readers read in
    -- the order of `place`, because no event with a smaller place appears later.
    place       bigint,                      -- among all events
    sequence    bigint,                      -- among the user's events: 1, 2, 3 ...
    check ((place is null) = (sequence is null))
);
create unique index outgoing_event_place on outgoing_event (place) where place is not null;
create index outgoing_event_unplaced on outgoing_event (entry) where place is null;
create unique index outgoing_event_user_id on outgoing_event (user_id, sequence);
create index outgoing_event_inserted_at on outgoing_event (inserted_at);

-- The largest place that was given. A transaction that gives places locks this row.
create table newest_place (
    id    integer primary key check (id = 1),
    place bigint not null
);
insert into newest_place (id, place) values (1, 0);

-- What outgoing events have reported of a user so far. An event is emitted only if something
-- differs.
create table told (
    user_id      text collate "C" primary key references users (id) on update cascade on delete cascade,
    sequence     bigint not null default 0,  -- of the user's newest event that has a place
    has_access   boolean not null default false,
    -- The subscription as the newest subscription.changed event showed it (subscription_to_tell).
    -- `trial_ending` is the end of the trial that was announced.
    subscription jsonb not null default '{}'
);

-- The statuses of a subscription that give access. Reconcile updates them from PastDueHasAccess.
create table access_status (
    status text collate "C" primary key
);

-- For trials whose end may have to be announced.
create index subscriptions_trial_ends_at on subscriptions (trial_ends_at) where status = 'trialing';
-- For users who may lose access because a known end passed, or because the parameter changed.
create index subscriptions_known_end on subscriptions (period_end)
    where cancel_at_period_end and status in ('active', 'trialing', 'past_due');
create index subscriptions_past_due on subscriptions (user_id) where status = 'past_due';
