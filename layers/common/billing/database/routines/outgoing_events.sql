-- Outgoing events (tables/0012_outgoing_events.sql): inserting them, and giving them their places.

-- Inserts an outgoing event about a user. The statement that makes the event true calls this
-- routine. p_data holds ids, codes, quantities and amounts, and no personal data.
create or replace function emit_event(
    p_user text, p_type text, p_occurred timestamptz, p_data jsonb
) returns void
language sql as $$
    insert into outgoing_event (user_id, type, occurred_at, data)
    values (p_user, p_type, p_occurred, p_data)
$$;

-- Gives places to the events that have none, in the order of inserting. Returns how many. Creates a
-- delivery of each event for each endpoint that is switched on and wants the event's type. Queues a
-- mail to the event's user, if events of this type cause a mail. Only one transaction at a time
-- gives places, and it sees committed events only. So places appear in their order: a reader who
-- has read up to a place never misses an event with a smaller place.
create or replace function place_events(p_limit integer) returns integer
language plpgsql as $$
declare
    v_newest bigint;
    v_waiting uuid[];
    v_placed integer;
begin
    if not exists (select from outgoing_event e where e.place is null) then
        return 0;
    end if;
    -- A statement of its own: the next statement then sees all that was committed before the lock
    -- was taken.
    insert into newest_place as n (id, place) values (1, 0)
    on conflict (id) do update set place = n.place
    returning n.place into v_newest;
    v_waiting := array(
        select e.id from outgoing_event e where e.place is null order by e.entry limit p_limit
    );
    -- These locks keep users who get a mail now from being erased. They come before the lock on
    -- `told`: a statement that writes `told` has locked the user first.
    perform from users u
    where u.id in (
        select e.user_id from outgoing_event e
        where e.id = any (v_waiting) and e.type = any (mailed_types())
    )
    order by u.id
    for share;
    with waiting as materialized (
        select e.id, e.entry, e.user_id from outgoing_event e where e.id = any (v_waiting)
    ),
    counted as (
        insert into told as t (user_id, sequence)
        select w.user_id, count(*) from waiting w group by w.user_id order by w.user_id
        on conflict (user_id) do update set sequence = t.sequence + excluded.sequence
        returning t.user_id, t.sequence as newest
    )
    update outgoing_event e set
        place = v_newest + n.position, sequence = c.newest + 1 - n.from_newest
    from (
        select w.id, w.user_id, row_number() over (order by w.entry) as position,
               row_number() over (partition by w.user_id order by w.entry desc) as from_newest
        from waiting w
    ) as n
    join counted c on c.user_id = n.user_id
    where e.id = n.id;
    get diagnostics v_placed = row_count;
    -- `for key share` waits until a deletion of an endpoint has ended; a deleted endpoint gets no
    -- deliveries.
    insert into event_delivery (endpoint, event, user_id, place)
    select p.id, e.id, e.user_id, e.place
    from (
        select q.id, q.types from event_endpoint q where q.disabled_at is null for key share
    ) as p
    join outgoing_event e on p.types is null or e.type = any (p.types)
    where e.place > v_newest and e.place <= v_newest + v_placed;
    perform queue_event_mails(v_waiting);
    update newest_place set place = v_newest + v_placed where v_placed > 0;
    return v_placed;
end
$$;
