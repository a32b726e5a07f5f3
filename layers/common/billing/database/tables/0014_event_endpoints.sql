-- Where outgoing events are sent to: the product's endpoints, and an EventBridge bus.

-- An address of the product to which outgoing events are posted. The table does not hold its
-- secrets: they are computed from a secret of the stack, the id and the generation
-- (billing/events/signing.py).
create table event_endpoint (
    id             text collate "C" primary key check (id ~ '^ep_[0-9a-f]{24}$'),
    slot           integer not null unique check (slot between 1 and 10),  -- so at most ten exist
    url            text not null,
    types          text[],                    -- the types of events that it gets; null: all
    description    text not null,
    created_at     timestamptz not null default now(),
    generation     integer not null default 1,  -- number of the newest secret
    oldest_generation integer not null default 1,  -- signs as well, until `previous_until`
    rotation       uuid,                      -- the newest rotation
    previous_until timestamptz,               -- until then earlier secrets sign as well
    succeeded_at   timestamptz,               -- when a delivery was last taken
    failing_since  timestamptz,               -- first failure since the last success
    disabled_at    timestamptz,               -- not null: it gets no events
    disabled_by    text check (disabled_by in ('failures', 'gone', 'request')),
    check ((disabled_at is null) = (disabled_by is null))
);

-- One outgoing event for one endpoint. place_events creates the row when it gives the event's
-- place.
--   pending   waits to be sent, for the first time or again
--   sent      the endpoint has answered 2xx
--   failed    not taken for three days; it is sent again only if somebody asks
create table event_delivery (
    endpoint        text collate "C" not null references event_endpoint (id) on delete cascade,
    event           uuid not null references outgoing_event (id) on delete cascade,
    user_id         text collate "C" not null
                        references users (id) on update cascade on delete cascade,
    place           bigint not null,          -- the event's place
    state           text not null default 'pending' check (state in ('pending', 'sent', 'failed')),
    attempts        integer not null default 0,
    waits_since     timestamptz not null default now(),  -- when it became pending
    due_at          timestamptz not null default now(),
    leased_until    timestamptz,              -- not null: one run alone sends it, until then
    attempted_at    timestamptz,              -- when the last attempt began
    first_failed_at timestamptz,              -- first failure since it became pending
    failures        integer not null default 0,  -- since it became pending; they decide the pause
    last_status     integer,                  -- the HTTP status of the last answer
    last_reason     text,                     -- why the last attempt failed
    ended_at        timestamptz,              -- when it became sent or failed
    primary key (endpoint, event),
    check ((state = 'pending') = (ended_at is null)),
    check (state = 'pending' or leased_until is null)
);
create index event_delivery_event on event_delivery (event);
create index event_delivery_user_id on event_delivery (user_id);
create index event_delivery_place on event_delivery (endpoint, place);
create index event_delivery_pending on event_delivery (endpoint, user_id, place)
    where state = 'pending';
create index event_delivery_due
    on event_delivery (endpoint, (first_failed_at is not null), due_at, place)
    where state = 'pending';
create index event_delivery_failed on event_delivery (endpoint, place) where state = 'failed';

-- The log of attempts. `status` is null if no answer came.
create table event_attempt (
    endpoint     text collate "C" not null,
    event        uuid not null,
    number       integer not null,            -- 1, 2, 3 ... of this delivery
    at           timestamptz not null,        -- when the attempt ended
    milliseconds integer not null,
    status       integer,
    reason       text,                        -- why it failed; null: the endpoint took the event
    primary key (endpoint, event, number),
    foreign key (endpoint, event) references event_delivery (endpoint, event) on delete cascade
);

-- The place up to which all outgoing events were put on the EventBridge bus. No row: the stack has
-- no bus.
create table event_bus (
    id    integer primary key check (id = 1),
    bus   text not null,                      -- the bus that `place` is about
    place bigint not null
);
