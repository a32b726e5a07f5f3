-- The inbox of Commet's webhooks.

-- One statement: the event is stored and applied, or neither.
-- name: receive_event
select receive_event(
    %(id)s, %(type)s, %(mode)s, %(customer)s, %(occurred_at)s, %(payload)s, %(status)s, %(news)s,
    %(now)s
)

-- What could not be applied is kept for reconcile. An event that is there already stays as it is.
-- name: store_failed_event
insert into webhook_events
    (id, type, mode, customer, occurred_at, payload, status, due_at, error)
values
    (%(id)s, %(type)s, %(mode)s, %(customer)s, %(occurred_at)s, %(payload)s, 'failed', now(),
     %(error)s)
on conflict (id) do nothing

-- Takes failed events that are due, oldest occurrence first, and holds each for a minute so that
-- two runs do not work on the same one.
-- name: lease_failed_events
update webhook_events set due_at = now() + interval '1 minute', attempts = attempts + 1
where id in (
    select id from webhook_events
    where status = 'failed' and due_at <= now()
    order by occurred_at nulls last
    limit %(limit)s
    for update skip locked
)
returning id, payload, attempts, occurred_at

-- name: retry_event
select retry_event(%(id)s, %(customer)s, %(occurred_at)s, %(news)s, %(now)s)

-- Failed again: later, or never more without somebody looking at it.
-- name: postpone_event
update webhook_events set
    status = case when attempts >= %(max_attempts)s then 'dead' else 'failed' end,
    due_at = case when attempts >= %(max_attempts)s then null
                  else now() + least(interval '1 hour', interval '10 seconds' * 2 ^ attempts) end,
    error = %(error)s
where id = %(id)s
returning status
