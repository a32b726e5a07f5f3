-- Deliveries of outgoing events to the product's endpoints (docs/decisions/0051).

-- Returns how long the later events of a user wait for a failing event of the same user.
create or replace function event_patience() returns interval
language sql immutable as $$ select interval '1 hour' $$;

-- Returns the time after which a failing delivery is given up. An endpoint that takes nothing for
-- as long is switched off.
create or replace function event_given_up_after() returns interval
language sql immutable as $$ select interval '3 days' $$;

-- Returns whether a user's later events may be sent before this pending one. They may if this event
-- has failed for an hour, no run is sending it, and it is not due. If the endpoint has taken
-- nothing since the first failure, the cause may be the endpoint, and not the event. Then the later
-- events may be sent only within two minutes after an attempt of this event, so that all events
-- arrive in order when the endpoint is back.
create or replace function may_be_overtaken(p_delivery event_delivery, p_succeeded timestamptz)
returns boolean
language sql stable as $$
    select p_delivery.first_failed_at <= now() - event_patience()
       and p_delivery.leased_until is null
       and p_delivery.due_at > now()
       and (p_succeeded > p_delivery.first_failed_at
            or p_delivery.attempted_at > now() - interval '2 minutes')
$$;

-- Returns the next delivery of each of these users: the first that may not be overtaken. Omits users
-- whose next delivery is not due or is leased.
create or replace function next_deliveries(
    p_endpoint text, p_users text[], p_succeeded timestamptz
) returns setof uuid
language sql stable as $$
    select first.event
    from unnest(p_users) as waiting (user_id)
    cross join lateral (
        select d.event, d.due_at, d.leased_until
        from event_delivery d
        where d.endpoint = p_endpoint and d.user_id = waiting.user_id and d.state = 'pending'
          and may_be_overtaken(d, p_succeeded) is not true
        order by d.place
        limit 1
    ) as first
    where first.due_at <= now() and (first.leased_until is null or first.leased_until <= now())
$$;

-- Returns deliveries that may be leased now: p_wanted of them, if there are so many, or more. Reads
-- the first 200 that are due, in the order of leasing. One user with many deliveries may fill these
-- 200. Then it goes through all users who wait, by their ids, so the cost depends on the number of
-- users and not on the number of deliveries.
create or replace function leasable_deliveries(
    p_endpoint text, p_succeeded timestamptz, p_wanted integer
) returns uuid[]
language plpgsql stable as $$
declare
    v_read integer;
    v_users text[];
    v_found uuid[];
begin
    select count(*), array_agg(distinct first.user_id) into v_read, v_users
    from (
        select d.user_id from event_delivery d
        where d.endpoint = p_endpoint and d.state = 'pending' and d.due_at <= now()
        order by d.first_failed_at is not null, d.due_at, d.place
        limit 200
    ) as first;
    v_found := array(select next_deliveries(p_endpoint, v_users, p_succeeded));
    if v_read < 200 or cardinality(v_found) >= p_wanted then
        return v_found;
    end if;
    v_users := array(
        with recursive waiting (user_id) as (
            select min(d.user_id) from event_delivery d
            where d.endpoint = p_endpoint and d.state = 'pending'
            union all
            select (
                select min(d.user_id) from event_delivery d
                where d.endpoint = p_endpoint and d.state = 'pending' and d.user_id > w.user_id
            )
            from waiting w where w.user_id is not null
        )
        select w.user_id from waiting w where w.user_id is not null
    );
    return array(select next_deliveries(p_endpoint, v_users, p_succeeded));
end
$$;

-- Leases deliveries that are due: up to p_free[i] of endpoint p_endpoints[i]. Events that never
-- failed come first, so events at fault hold up no other user. Repeats come in the order in which
-- they became due.
create or replace function lease_event_deliveries(
    p_endpoints text[], p_free integer[], p_lease interval
) returns table (endpoint text, event uuid, attempt integer, failures integer)
language sql as $$
    with due as materialized (
        select found.endpoint, found.event
        from unnest(p_endpoints, p_free) as room (endpoint, free)
        join event_endpoint p on p.id = room.endpoint and p.disabled_at is null
        cross join lateral (
            select d.endpoint, d.event
            from unnest(leasable_deliveries(p.id, p.succeeded_at, room.free)) as l (event)
            join event_delivery d on d.endpoint = room.endpoint and d.event = l.event
            where d.state = 'pending' and d.due_at <= now()
              and (d.leased_until is null or d.leased_until <= now())
            order by d.first_failed_at is not null, d.due_at, d.place
            limit room.free
            for update of d skip locked
        ) as found
    )
    update event_delivery d set
        leased_until = now() + p_lease, attempted_at = now(), attempts = d.attempts + 1
    from due
    where d.endpoint = due.endpoint and d.event = due.event
    returning d.endpoint, d.event, d.attempts, d.failures
$$;

-- Records the outcome of attempt p_attempt. p_reason is null if the endpoint took the event.
-- p_pause is the time until the next attempt. If another attempt has begun since, a failure is not
-- recorded, but a success is. If this attempt caused the endpoint to be switched off, returns the
-- reason, 'failures' or 'gone'; otherwise null.
create or replace function record_event_attempt(
    p_endpoint text, p_event uuid, p_attempt integer,
    p_status integer, p_reason text, p_milliseconds integer, p_pause interval
) returns text
language plpgsql as $$
declare
    v_failing timestamptz;
    v_succeeded timestamptz;
    v_is_off boolean;
    v_failed timestamptz;
    v_gives_up boolean;
    v_off text;
begin
    -- The lock makes recordings about one endpoint run one after the other, because the endpoint's
    -- columns summarise all its attempts.
    select p.failing_since, p.succeeded_at, p.disabled_at is not null
    into v_failing, v_succeeded, v_is_off
    from event_endpoint p where p.id = p_endpoint for no key update;
    select d.first_failed_at into v_failed from event_delivery d
    where d.endpoint = p_endpoint and d.event = p_event;
    if not found then
        return null;  -- the endpoint or the event was deleted meanwhile
    end if;
    insert into event_attempt (endpoint, event, number, at, milliseconds, status, reason)
    values (p_endpoint, p_event, p_attempt, clock_timestamp(), p_milliseconds, p_status, p_reason)
    on conflict do nothing;

    if p_reason is null then
        update event_delivery set
            state = 'sent', leased_until = null, ended_at = now(), last_status = p_status,
            last_reason = null
        where endpoint = p_endpoint and event = p_event and state <> 'sent';
        if v_failing is not null then
            -- The endpoint is back, so all its pending deliveries become due now.
            update event_delivery set due_at = now()
            where endpoint = p_endpoint and state = 'pending' and due_at > now();
        end if;
        update event_endpoint set succeeded_at = now(), failing_since = null
        where id = p_endpoint;
        return null;
    end if;

    v_failed := coalesce(v_failed, now());
    v_gives_up := v_failed <= now() - event_given_up_after();
    update event_delivery set
        state = case when v_gives_up then 'failed' else 'pending' end,
        ended_at = case when v_gives_up then now() end,
        leased_until = null, first_failed_at = v_failed, failures = failures + 1,
        due_at = now() + p_pause, last_status = p_status, last_reason = p_reason
    where endpoint = p_endpoint and event = p_event
      and state = 'pending' and attempts = p_attempt;
    if not found then
        return null;
    end if;

    -- If the endpoint took other events after this event first failed, the cause is the event. Only
    -- otherwise is the endpoint marked as failing.
    if v_succeeded is null or v_succeeded < v_failed then
        v_failing := coalesce(v_failing, now());
    end if;
    if not v_is_off then
        v_off := case
            when p_status = 410 then 'gone'
            when v_failing <= now() - event_given_up_after() then 'failures'
        end;
    end if;
    update event_endpoint set
        failing_since = v_failing,
        disabled_at = case when v_off is null then disabled_at else now() end,
        disabled_by = coalesce(v_off, disabled_by)
    where id = p_endpoint;
    return v_off;
end
$$;

-- Sends events to an endpoint again, or for the first time: p_event, or all events from p_from up
-- to p_to that the endpoint wants, p_limit at most. Events that are already pending remain as they
-- are. Returns how many events became pending.
create or replace function redeliver_events(
    p_endpoint text, p_event uuid, p_from timestamptz, p_to timestamptz, p_after bigint,
    p_limit integer
) returns table (queued bigint, last_place bigint)
language sql as $$
    with wanted as materialized (
        select e.id, e.user_id, e.place
        from event_endpoint p
        join outgoing_event e on e.place is not null and (
            e.id = p_event
            or p_event is null and e.occurred_at >= p_from and e.occurred_at < p_to
               and (p.types is null or e.type = any (p.types))
        )
        where p.id = p_endpoint and e.place > p_after
        order by e.place
        limit p_limit
    ),
    put as (
        insert into event_delivery as d (endpoint, event, user_id, place)
        select p_endpoint, w.id, w.user_id, w.place from wanted w
        order by w.place
        on conflict (endpoint, event) do update set
            state = 'pending', ended_at = null, waits_since = now(), due_at = now(),
            first_failed_at = null, failures = 0
        where d.state <> 'pending'
        returning d.event
    )
    select (select count(*) from put), (select max(w.place) from wanted w)
$$;
