-- Redriving: sending parked deliveries again.

-- Returns whether a redrive with these arguments includes this delivery. A delivery that may have
-- been counted (`unconfirmed`), or whose subscription is over (`lost_to_cancellation`), is included
-- only if p_event or p_reason names it. The function reads no table, so that Postgres inlines it.
create or replace function redrivable(
    d usage_delivery, p_user text, p_event text, p_reason text
) returns boolean
language sql stable as $$
    select d.state = 'parked' and d.kind = 'event' and d.resolved_at is null
       and d.user_id = coalesce(p_user, d.user_id)
       and case
           when p_event is not null then d.event_id = p_event
           when p_reason is not null then d.reason = p_reason
           else d.reason not in ('unconfirmed', 'lost_to_cancellation')
       end
$$;

-- Makes parked deliveries pending again; returns how many, p_limit at most. p_user, p_event and
-- p_reason narrow the choice (see redrivable). Each gets a new generation, and so another
-- idempotency key: with the old key Commet would repeat the refusal.
-- Deliveries are left out while a total of their user and feature is being replaced, in whichever
-- period. This routine and begin_replacement both lock the user, so each sees what the other did.
create or replace function redrive_deliveries(
    p_user text, p_event text, p_reason text, p_limit integer
) returns bigint
language plpgsql as $$
declare
    v_users text[];
    v_driven bigint;
begin
    select array_agg(distinct n.user_id) into v_users
    from (
        select d.user_id from usage_delivery d
        where redrivable(d, p_user, p_event, p_reason)
        limit p_limit
    ) as n;
    perform from users where id = any (v_users) order by id for no key update;

    with parked as materialized (
        select n.period, n.feature, n.seq
        from usage_delivery n
        where redrivable(n, p_user, p_event, p_reason) and n.user_id = any (v_users)
          and not exists (
              select from usage_total t
              join usage_period p on p.id = t.period
              where p.user_id = n.user_id and t.feature = n.feature
                and t.claims_paused_until > now()
          )
        limit p_limit
        for update of n skip locked
    )
    update usage_delivery d set
        state = 'pending', generation = d.generation + 1, reason = null, due_at = now(),
        attempts = 0, uncertain_since = null, compare_at = null, amount = null, currency = null
    from parked
    where d.period = parked.period and d.feature = parked.feature and d.seq = parked.seq;
    get diagnostics v_driven = row_count;
    return v_driven;
end
$$;
