-- What lets the mirror heal by itself: rows come due by index however many there are, the inbox
-- is found through by what is wrong with an event, and long work knows where it stands.

-- When the schedule asks Commet again although nothing happened (the database's clock). Jittered:
-- customers who came on one day are not all asked about in one minute. `checks` counts the questions
-- of people who wait, this the schedule's: neither makes the other's pause longer.
alter table subscriptions
    add column recheck_at timestamptz,
    add column background_checks integer not null default 0;
update subscriptions set recheck_at = now() + interval '1 day' * random();
alter table subscriptions
    alter column recheck_at set default now() + interval '1 day' * (0.9 + 0.2 * random());

-- One index for each reason a row comes due (routines/refresh.sql). Each holds only rows that can.
drop index subscriptions_refresh_due;
create index subscriptions_marked on subscriptions (refresh_due) where refresh_due is not null;
create index subscriptions_period_end on subscriptions (period_end)
    where status in ('active', 'trialing', 'past_due');
create index subscriptions_recheck on subscriptions (recheck_at) where status <> 'canceled';
create index subscriptions_live on subscriptions (id)
    where status in ('active', 'trialing', 'past_due', 'paused');

-- `error` says why an event failed, and of an ignored one why it may matter yet: 'unknown_customer'
-- waits for that user, 'other_mode' for a deployment that is told its right mode.
create index webhook_events_unheard on webhook_events (customer)
    where status = 'ignored' and error = 'unknown_customer';
create index webhook_events_unheard_at on webhook_events (received_at)
    where status = 'ignored' and error = 'unknown_customer';
create index webhook_events_other_mode on webhook_events (mode)
    where status = 'ignored' and error = 'other_mode';
create index webhook_events_dead on webhook_events (id) where status = 'dead';
create index webhook_events_failed on webhook_events (attempts, occurred_at)
    where status = 'failed';
create index webhook_events_customer on webhook_events (customer, received_at);
create index webhook_events_received_at on webhook_events (received_at);

-- One budget for the calls of the whole stack to Commet. `refilled_at` lies ahead while Commet has
-- asked for a pause.
create table rate_bucket (
    name        text collate "C" primary key,
    tokens      numeric not null,
    refilled_at timestamptz not null
);

-- Where work stands that no single run can finish.
create table reconcile_cursor (
    name         text collate "C" primary key,
    position     jsonb,                 -- null: no round is under way
    requested    jsonb,                 -- a round is wanted now, begun at this position
    started_at   timestamptz,           -- of the round under way, or the last one
    finished_at  timestamptz,
    leased_until timestamptz            -- somebody works on it
);
