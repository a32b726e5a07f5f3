-- name: delete_expired_sessions
delete from sessions where token_sha256 in (
    select token_sha256 from sessions where expires_at < %(now)s limit 10000
)

-- name: delete_old_attempts
delete from attempts where (key, window_start) in (
    select key, window_start from attempts where window_start < %(before)s limit 10000
)

-- name: delete_unverified
select delete_unverified(%(before)s, 1000)

-- name: prune_sign_ins
select prune_sign_ins(%(now)s, %(networks_before)s)

-- name: delete_old_plan_changes
delete from plan_change where id in (
    select id from plan_change where expires_at < now() - %(age)s::interval limit 10000
)

-- name: compact
select looked_at, finished from compact_deliveries(%(before)s, %(limit)s)

-- name: prune_ledger
select looked_at, pruned, booked_at, user_id, key, feature
from prune_ledger(%(before)s, %(booked_at)s, %(user_id)s, %(key)s, %(feature)s, %(limit)s)

-- Deletes the payloads of the next old webhooks after a position. Returns how many rows it read,
-- how many payloads it deleted, and the last position. A webhook that was not applied yet keeps its
-- payload.
-- name: prune_payloads
with old as (
    select id, received_at from webhooks
    where (received_at, id) > (%(received_at)s::timestamptz, %(id)s::text)
      and received_at <= now() - %(age)s::interval
    order by received_at, id
    limit %(limit)s
),
pruned as (
    update webhooks e set payload = null
    from old
    where e.id = old.id and e.status in ('applied', 'ignored', 'unreadable')
      and e.payload is not null
    returning 1
)
select (select count(*) from old) as looked_at, (select count(*) from pruned) as pruned,
       last.received_at, last.id
from (select received_at, id from old order by received_at desc, id desc limit 1) as last

-- Deletes the rows of old webhooks. Commet sends no webhook again after so long. If it did, the
-- subscription's columns would all be newer, and the webhook would change nothing.
-- name: delete_old_webhooks
with old as (
    select id from webhooks
    where received_at <= now() - %(age)s::interval and status not in ('failed', 'dead')
    order by received_at
    limit %(limit)s
)
delete from webhooks e using old where e.id = old.id
returning e.id
