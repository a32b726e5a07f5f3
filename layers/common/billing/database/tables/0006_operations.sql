-- State that all functions of a stack share: the call budget and the positions of rounds.

-- A token bucket: one token is one call to Commet. During a pause that Commet asked for,
-- `refilled_at` is in the future.
create table call_budget (
    name        text collate "C" primary key,
    tokens      numeric not null,
    refilled_at timestamptz not null
);

-- The positions of rounds: work that no single run can finish.
create table rounds (
    name         text collate "C" primary key,
    position     jsonb,                 -- null: no round is under way
    requested    jsonb,                 -- not null: the next run begins a round here
    started_at   timestamptz,           -- begin of the present round, or of the last one
    -- the same time by the functions' clock, which decides when the next round is due
    begun_at     timestamptz,
    finished_at  timestamptz,
    leased_until timestamptz            -- until then, only one run works on the round
);

-- Alarms that are raised once for each subject, for example a day or a currency.
create table alarm_once (
    alarm    text collate "C" not null,
    subject  text collate "C" not null,
    about    text collate "C",               -- the user, if the alarm is about one
    noted_at timestamptz not null default now(),
    rung_at  timestamptz,                    -- null: the next run of deliver_usage raises it
    primary key (alarm, subject)
);
create index alarm_once_silent on alarm_once (alarm) where rung_at is null;
