-- State that all functions of a stack share: the budget of calls to Commet, and the position of long
-- work.

-- `refilled_at` lies in the future while Commet has asked for a pause.
create table rate_bucket (
    name        text collate "C" primary key,
    tokens      numeric not null,
    refilled_at timestamptz not null
);

-- The position of work that no single run can finish.
create table reconcile_cursor (
    name         text collate "C" primary key,
    position     jsonb,                 -- null: no round is under way
    requested    jsonb,                 -- a round is wanted now, begun at this position
    started_at   timestamptz,           -- of the round under way, or the last one
    finished_at  timestamptz,
    leased_until timestamptz            -- a run works on it until then
);
