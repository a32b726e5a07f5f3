-- The inbox of Commet's webhooks.

create table webhook_events (
    id          text collate "C" primary key,
    type        text not null,
    mode        text,
    customer    text collate "C",
    occurred_at timestamptz,
    received_at timestamptz not null default now(),
    payload     bytea,                        -- bytes as signed: jsonb refuses some JSON
    status      text not null check (status in
                ('applied', 'ignored', 'failed', 'dead', 'unreadable')),
    attempts    integer not null default 1,
    due_at      timestamptz,                  -- when reconcile tries it again
    -- Of a failed webhook: why it failed. Of an ignored one: why it may matter later.
    -- 'unknown_customer' waits until that user appears, 'other_mode' until a deployment sets
    -- CommetMode to the webhook's mode.
    error       text
);
create index webhook_events_due_at on webhook_events (due_at) where due_at is not null;
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
