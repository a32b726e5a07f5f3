-- The place up to which outgoing events were put on the EventBridge bus.

-- Returns the place up to which events were put. A bus with another name begins at the newest
-- place.
-- name: begin
insert into event_bus as b (id, bus, place)
values (1, %(bus)s, coalesce((select n.place from newest_place n), 0))
on conflict (id) do update set
    bus = excluded.bus,
    place = case when b.bus = excluded.bus then b.place else excluded.place end
returning b.place

-- `greatest`, because another run may have put more events.
-- name: advance
update event_bus set place = greatest(place, %(place)s) where id = 1 and bus = %(bus)s

-- name: forget
delete from event_bus

-- name: age
select extract(epoch from now() - min(e.inserted_at))::float8
from event_bus b
join outgoing_event e on e.place > b.place
