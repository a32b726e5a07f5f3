-- The inbox of Commet's webhooks.

create table webhooks (
    id          text collate "C" primary key,
    type        text not null,
    mode        text,
    customer    text collate "C",
    -- The user who had the webhook's customer when the webhook was stored or applied. An equal
    -- address does not count. Null: nobody of ours, or not known yet. The payload is part of this
    -- user's export.
    user_id     text collate "C",
    occurred_at timestamptz,
    received_at timestamptz not null default now(),
    payload     bytea,  -- the bytes that were signed; not jsonb, which refuses some JSON
    status      text not null check (status in
                ('applied', 'ignored', 'failed', 'dead', 'unreadable')),
    attempts    integer not null default 1,
    due_at      timestamptz,                  -- when reconcile tries it again
    -- Of a failed webhook: why it failed. Of an ignored one: why it may be applied later.
    -- 'unknown_customer' is applied when that user appears, 'other_mode' when a deployment sets
    -- CommetMode to the webhook's mode. 'somebody_elses' is never applied and has no payload.
    error       text
);
create index webhooks_due_at on webhooks (due_at) where due_at is not null;
create index webhooks_unheard on webhooks (customer)
    where status = 'ignored' and error = 'unknown_customer';
create index webhooks_unheard_at on webhooks (received_at)
    where status = 'ignored' and error = 'unknown_customer';
create index webhooks_other_mode on webhooks (mode)
    where status = 'ignored' and error = 'other_mode';
create index webhooks_dead on webhooks (id) where status = 'dead';
create index webhooks_failed on webhooks (attempts, occurred_at)
    where status = 'failed';
create index webhooks_customer on webhooks (customer, received_at);
create index webhooks_user_id on webhooks (user_id, id) where user_id is not null;
create index webhooks_received_at on webhooks (received_at);
