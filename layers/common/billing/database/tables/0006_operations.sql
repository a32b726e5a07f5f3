-- State that all functions of a stack share: the call budget and the positions of rounds.

-- A token bucket: one token is one call to Commet. `refilled_at` lies in the future during a pause
-- that Commet asked for.
create table call_budget (
    name        text collate "C" primary key,
    tokens      numeric not null,
    refilled_at timestamptz not null
);

-- The positions of rounds: work that no single run can finish.
create table rounds (
    name         text collate "C" primary key,
    position     jsonb,                 -- null: no round is under way
    requested    jsonb,                 -- not null: the next run begins a round at this position
    started_at   timestamptz,           -- when the round under way, or the last one, began
    finished_at  timestamptz,
    leased_until timestamptz            -- until then, one run alone works on the round
);
