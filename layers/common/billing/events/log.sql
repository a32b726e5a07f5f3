-- The log of outgoing events.

-- name: place
select place_events(%(limit)s)

-- name: after
select id, place, sequence, user_id, type, occurred_at, data
from outgoing_event
where place > %(place)s
  and (%(types)s::text[] is null or type = any (%(types)s::text[]))
  and (%(user_id)s::text is null or user_id = %(user_id)s::text)
order by place
limit %(limit)s

-- The events' deliveries are deleted with them.
-- name: prune
delete from outgoing_event where id in (
    select id from outgoing_event
    where inserted_at < now() - %(age)s::interval and place is not null
    order by inserted_at
    limit %(limit)s
)
returning id
