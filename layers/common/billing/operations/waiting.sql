-- What waits for an operator.

-- name: pending
select count(*) from (
    select 1 from usage_delivery where state = 'pending' limit %(limit)s
) as p

-- name: parked
select event_id, user_id, feature, quantity, reason, claimed_at as since
from usage_delivery
where state = 'parked' and resolved_at is null
  and (compare_at is null or uncertain_since <= now() - %(undecided)s::interval)
order by claimed_at, event_id
limit %(limit)s

-- name: dead_webhooks
select id, type, user_id, received_at, error
from webhooks
where status = 'dead'
order by received_at desc, id
limit %(limit)s

-- `waits_since` is that of the event that has waited longest, whether the endpoint is switched on or
-- off.
-- name: endpoints
select p.id, p.url, p.description, p.failing_since, p.disabled_at, p.disabled_by,
       (select min(d.waits_since) from event_delivery d
        where d.endpoint = p.id and d.state = 'pending') as waits_since
from event_endpoint p
order by p.created_at, p.id

-- name: drift
select user_id, feature, ours, theirs, found_at, repair
from usage_drift
order by found_at, user_id, feature
limit %(limit)s
