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
    begun_at     timestamptz,           -- the same by the functions' clock, which decides when the next is due
    finished_at  timestamptz,
    leased_until timestamptz            -- until then, one run alone works on the round
);

-- Alarms that ring once for each subject, such as a day or a currency.
create table alarm_once (
    alarm    text collate "C" not null,
    subject  text collate "C" not null,
    about    text collate "C",               -- the user, if the alarm is about one
    noted_at timestamptz not null default now(),
    rung_at  timestamptz,                    -- null: the next run of deliver_usage rings
    primary key (alarm, subject)
);
create index alarm_once_silent on alarm_once (alarm) where rung_at is null;
