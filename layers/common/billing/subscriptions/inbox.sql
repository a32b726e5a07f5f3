-- The inbox of Commet's webhooks.

-- Stores and applies the webhook in one statement, so either both happen or neither.
-- name: receive_webhook
select receive_webhook(
    %(id)s, %(type)s, %(mode)s, %(customer)s, %(occurred_at)s, %(payload)s, %(status)s, %(change)s,
    %(now)s
)

-- Stores a webhook that could not be applied, for reconcile. A webhook that is stored already does
-- not change.
-- name: store_failed_webhook
insert into webhooks
    (id, type, mode, customer, user_id, occurred_at, payload, status, due_at, error)
values
    (%(id)s, %(type)s, %(mode)s,
     case when is_erased(%(customer)s) then find_user(%(customer)s) else %(customer)s end,
     find_user(%(customer)s),
     %(occurred_at)s,
     case when is_erased(%(customer)s) then %(stripped)s::bytea else %(payload)s::bytea end,
     'failed', now(), %(error)s)
on conflict (id) do nothing

-- Leases failed webhooks that are due, for a minute, so that two runs do not work on the same one.
-- Webhooks with the fewest attempts come first, so that one user's webhooks that fail repeatedly do
-- not delay those of other users. Among equal numbers of attempts, the webhook that occurred first
-- comes first.
-- name: lease_failed_webhooks
with due as materialized (
    select id from webhooks
    where status = 'failed' and due_at <= now()
    order by attempts, occurred_at nulls last
    limit %(limit)s
    for update skip locked
)
update webhooks e set due_at = now() + interval '1 minute', attempts = e.attempts + 1
from due
where e.id = due.id
returning e.id, e.payload, e.attempts, e.occurred_at

-- Ends the lease of webhooks for which there was not enough time. The lease does not count as an
-- attempt.
-- name: unlease_webhooks
update webhooks set due_at = now(), attempts = attempts - 1
where id = any (%(ids)s) and status = 'failed'

-- name: retry_webhook
select retry_webhook(%(id)s, %(customer)s, %(occurred_at)s, %(change)s, %(now)s)

-- Makes a webhook that failed again due later. After its last attempt it is dead, and a person
-- decides.
-- name: postpone_webhook
update webhooks set
    status = case when attempts >= %(max_attempts)s then 'dead' else 'failed' end,
    due_at = case when attempts >= %(max_attempts)s then null
                  else now() + least(interval '1 hour', interval '10 seconds' * 2 ^ attempts) end,
    error = %(error)s
where id = %(id)s and status = 'failed'
returning status

-- Makes ignored webhooks due that can be applied now. These are webhooks whose user appeared in the
-- same moment as the webhook (for users who appear later, the trigger wake_webhooks_of_user does
-- this), and webhooks of the mode that is ours now. A webhook without a payload has nothing left to
-- apply.
-- name: wake_ignored
update webhooks set status = 'failed', due_at = now(), attempts = 0, error = null
where id in (
    (select id from webhooks
     where status = 'ignored' and error = 'unknown_customer' and payload is not null
       and received_at > now() - interval '10 minutes' and find_user(customer) is not null
     order by received_at  -- uses the index by time, instead of reading all unknown customers
     limit 1000)
    union all
    (select id from webhooks
     where status = 'ignored' and error = 'other_mode' and payload is not null
       and mode = %(mode)s
     limit 1000)
)

-- Makes dead webhooks due again, as if they had just arrived.
-- name: redrive_webhooks
with dead as materialized (
    select id from webhooks
    where status = 'dead' and payload is not null
      and (%(id)s::text is null or id = %(id)s)
      and (%(user_id)s::text is null or customer in (
          select unnest(array[u.id, u.commet_customer_id]) from users u where u.id = %(user_id)s
      ))
    limit %(limit)s
    for update skip locked
)
update webhooks e set status = 'failed', due_at = now(), attempts = 0
from dead
where e.id = dead.id
returning e.id

-- Returns how many webhooks wait for another attempt, how many wait for a person, and the age of
-- the oldest that waits for another attempt.
-- name: health
select
    (select count(*) from webhooks where status = 'failed' and due_at is not null) as failed,
    (select count(*) from webhooks where status = 'dead') as dead,
    (select coalesce(extract(epoch from now() - min(received_at)), 0)::bigint
     from webhooks where status = 'failed' and due_at is not null) as oldest_seconds
