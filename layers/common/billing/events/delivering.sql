-- Leasing deliveries to endpoints, and recording the outcomes of attempts.

-- Leases due deliveries, for each endpoint as many as it may have further calls.
-- name: lease
select l.endpoint, l.event, l.attempt, l.failures, p.url, p.generation,
       case when p.previous_until > now() then p.oldest_generation else p.generation end
           as oldest_generation,
       e.place, e.sequence, e.user_id, e.type, e.occurred_at, e.data
from lease_event_deliveries(%(endpoints)s::text[], %(free)s::integer[], %(lease)s::interval) as l
join event_endpoint p on p.id = l.endpoint
join outgoing_event e on e.id = l.event
order by e.place

-- name: record
select record_event_attempt(
    %(endpoint)s, %(event)s, %(attempt)s,
    %(status)s::integer, %(reason)s::text, %(milliseconds)s, %(pause)s::interval
)

-- name: gauges
select
    coalesce(extract(epoch from now() - least(
        (select min(d.waits_since) from event_delivery d
         join event_endpoint p on p.id = d.endpoint
         where d.state = 'pending' and p.disabled_at is null),
        (select min(e.inserted_at) from outgoing_event e where e.place is null)
    )), 0)::float8 as age_seconds,
    (select count(*) from event_delivery where state = 'failed') as failed,
    (select count(*) from event_endpoint where disabled_by in ('failures', 'gone')) as off
