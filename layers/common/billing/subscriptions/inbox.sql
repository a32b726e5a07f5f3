-- The inbox of Commet's webhooks.

-- One statement: the event is stored and applied, or neither.
-- name: receive_event
select receive_event(
    %(id)s, %(type)s, %(mode)s, %(customer)s, %(occurred_at)s, %(payload)s, %(status)s, %(change)s,
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

-- Takes failed events that are due, those tried least first, so that however many of one user fail
-- again and again hold up nobody else's; among these the oldest occurrence first. Holds each for a
-- minute so that two runs do not work on the same one.
-- name: lease_failed_events
with due as materialized (
    select id from webhook_events
    where status = 'failed' and due_at <= now()
    order by attempts, occurred_at nulls last
    limit %(limit)s
    for update skip locked
)
update webhook_events e set due_at = now() + interval '1 minute', attempts = e.attempts + 1
from due
where e.id = due.id
returning e.id, e.payload, e.attempts, e.occurred_at

-- Gives back what there was no time for, as if it had never been taken.
-- name: unlease_events
update webhook_events set due_at = now(), attempts = attempts - 1
where id = any (%(ids)s) and status = 'failed'

-- name: retry_event
select retry_event(%(id)s, %(customer)s, %(occurred_at)s, %(change)s, %(now)s)

-- Failed again: later, or never more without somebody looking at it.
-- name: postpone_event
update webhook_events set
    status = case when attempts >= %(max_attempts)s then 'dead' else 'failed' end,
    due_at = case when attempts >= %(max_attempts)s then null
                  else now() + least(interval '1 hour', interval '10 seconds' * 2 ^ attempts) end,
    error = %(error)s
where id = %(id)s and status = 'failed'
returning status

-- Ignored events that may matter after all: those of a user who appeared at the very moment the
-- event came in (later ones are woken by the user's own row), and those of the mode that is right
-- now. What was pruned has nothing left to apply.
-- name: wake_ignored
update webhook_events set status = 'failed', due_at = now(), attempts = 0, error = null
where id in (
    (select id from webhook_events
     where status = 'ignored' and error = 'unknown_customer' and payload is not null
       and received_at > now() - interval '10 minutes' and find_user(customer) is not null
     order by received_at  -- by the index that knows when, not through all who were ever unknown
     limit 1000)
    union all
    (select id from webhook_events
     where status = 'ignored' and error = 'other_mode' and payload is not null
       and mode = %(mode)s
     limit 1000)
)

-- Dead events are tried again as if they had just come.
-- name: redrive_events
with dead as materialized (
    select id from webhook_events
    where status = 'dead' and payload is not null
      and (%(id)s::text is null or id = %(id)s)
      and (%(user_id)s::text is null or customer in (
          select unnest(array[u.id, u.commet_customer_id]) from users u where u.id = %(user_id)s
      ))
    limit %(limit)s
    for update skip locked
)
update webhook_events e set status = 'failed', due_at = now(), attempts = 0
from dead
where e.id = dead.id
returning e.id

-- What waits for a repair or a person: how many rows, and since when the oldest has.
-- name: health
select
    (select count(*) from webhook_events where status = 'failed' and due_at is not null) as failed,
    (select count(*) from webhook_events where status = 'dead') as dead,
    (select coalesce(extract(epoch from now() - min(received_at)), 0)::bigint
     from webhook_events where status = 'failed' and due_at is not null) as oldest_seconds
