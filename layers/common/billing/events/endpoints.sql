-- The product's endpoints, and their deliveries.

-- Takes the first free slot. Returns no row if none is free, or if another request takes the same
-- slot.
-- name: insert
with free as (
    select s.slot from generate_series(1, 10) as s (slot)
    where not exists (select from event_endpoint p where p.slot = s.slot)
    order by s.slot
    limit 1
),
made as (
    insert into event_endpoint (id, slot, url, types, description)
    select %(id)s, f.slot, %(url)s, %(types)s::text[], %(description)s from free f
    on conflict do nothing
    returning id, url, types, description, created_at, generation, previous_until, failing_since,
              disabled_at, disabled_by
),
-- If the connection broke, the statement ran twice, and its first run made the endpoint.
found as (
    select m.id, m.url, m.types, m.description, m.created_at, m.generation, m.previous_until,
           m.failing_since, m.disabled_at, m.disabled_by
    from made m
    union all
    select p.id, p.url, p.types, p.description, p.created_at, p.generation, p.previous_until,
           p.failing_since, p.disabled_at, p.disabled_by
    from event_endpoint p where p.id = %(id)s
)
select f.id, f.url, f.types, f.description, f.created_at, f.generation, f.previous_until,
       f.failing_since, f.disabled_at, f.disabled_by, audit(null, %(entry)s::jsonb) as noted
from found f

-- name: all
select id, url, types, description, created_at, generation, previous_until, failing_since,
       disabled_at, disabled_by
from event_endpoint
order by created_at, id

-- name: get
select id, url, types, description, created_at, generation, previous_until, failing_since,
       disabled_at, disabled_by
from event_endpoint
where id = %(id)s

-- Changes an endpoint. If it is switched on again or gets another address, its pending deliveries
-- are due at once, and their failures no longer count.
-- name: change
with changed as (
    update event_endpoint set
        url = coalesce(%(url)s::text, url),
        types = case when %(sets_types)s then %(types)s::text[] else types end,
        description = coalesce(%(description)s::text, description),
        failing_since = case when %(enabled)s::boolean or %(url)s::text <> url then null
                             else failing_since end,
        disabled_at = case when %(enabled)s::boolean is null then disabled_at
                           when not %(enabled)s::boolean then coalesce(disabled_at, now()) end,
        disabled_by = case when %(enabled)s::boolean is null then disabled_by
                           when not %(enabled)s::boolean then coalesce(disabled_by, 'request') end
    where id = %(id)s
    returning id, url, types, description, created_at, generation, previous_until, failing_since,
              disabled_at, disabled_by
),
begun as (
    update event_delivery d set
        first_failed_at = null, failures = 0, waits_since = now(), due_at = now()
    from changed c
    where d.endpoint = c.id and d.state = 'pending'
      and (%(enabled)s::boolean or %(url)s::text is not null)
)
select c.id, c.url, c.types, c.description, c.created_at, c.generation, c.previous_until,
       c.failing_since, c.disabled_at, c.disabled_by, audit(null, %(entry)s::jsonb) as noted
from changed c

-- name: delete
with gone as (
    delete from event_endpoint where id = %(id)s returning id
)
select g.id, audit(null, %(entry)s::jsonb) as noted from gone g

-- Earlier secrets that still sign continue to sign, because the product may have lost the answer to
-- the rotation before and still verify with an earlier secret. Nine of them at most, so that the
-- header has a bounded size.
-- name: rotate
with changed as (
    update event_endpoint set
        generation = generation + 1,
        oldest_generation = greatest(
            case when previous_until > now() then oldest_generation else generation end,
            generation - 8
        ),
        previous_until = now() + %(overlap)s::interval,
        rotation = %(rotation)s
    where id = %(id)s and rotation is distinct from %(rotation)s
    returning id, url, types, description, created_at, generation, previous_until, failing_since,
              disabled_at, disabled_by
),
-- If the connection broke, the statement ran twice, and its first run made the secret.
found as (
    select c.id, c.url, c.types, c.description, c.created_at, c.generation, c.previous_until,
           c.failing_since, c.disabled_at, c.disabled_by
    from changed c
    union all
    select p.id, p.url, p.types, p.description, p.created_at, p.generation, p.previous_until,
           p.failing_since, p.disabled_at, p.disabled_by
    from event_endpoint p where p.id = %(id)s and p.rotation = %(rotation)s
)
select f.id, f.url, f.types, f.description, f.created_at, f.generation, f.previous_until,
       f.failing_since, f.disabled_at, f.disabled_by, audit(null, %(entry)s::jsonb) as noted
from found f

-- name: deliveries
select d.event, d.place, e.type, d.user_id, e.sequence, d.state, d.attempts,
       case when d.state = 'pending' then d.due_at end as due_at, d.attempted_at,
       d.last_status as status, d.last_reason as reason, d.ended_at
from event_delivery d
join outgoing_event e on e.id = d.event
where d.endpoint = %(id)s
  and (%(state)s::text is null or d.state = %(state)s::text)
  and (%(before)s::bigint is null or d.place < %(before)s::bigint)
order by d.place desc
limit %(limit)s

-- Returns the newest attempts of each of these deliveries.
-- name: attempts
select found.event, found.at, found.status, found.reason, found.milliseconds
from unnest(%(events)s::uuid[]) as wanted (event)
cross join lateral (
    select a.event, a.number, a.at, a.status, a.reason, a.milliseconds
    from event_attempt a
    where a.endpoint = %(id)s and a.event = wanted.event
    order by a.number desc
    limit %(most)s
) as found
order by found.event, found.number desc

-- Returns no row if there is no such endpoint. A request for one event that is not in the log sends
-- nothing and is not audited.
-- name: redeliver
select r.queued, r.last_place,
       case when %(event)s::uuid is null or r.last_place is not null
            then audit(null, %(entry)s::jsonb) end as noted
from event_endpoint p,
     redeliver_events(p.id, %(event)s::uuid, %(start)s, %(end)s, %(after)s, %(limit)s) as r
where p.id = %(id)s
