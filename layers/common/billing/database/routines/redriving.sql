-- Redriving: sending parked deliveries again.

-- Returns whether a redrive with these arguments includes this delivery. A delivery that Commet may
-- have counted (`unconfirmed`), or whose subscription has ended (`lost_to_cancellation`), is
-- included only if p_event or p_reason names it. The function reads no table, so that Postgres
-- inlines it.
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

-- Makes parked deliveries pending again. Returns how many, p_limit at most. p_user, p_event and
-- p_reason limit the choice (see redrivable). Each delivery gets a new generation, and so a new
-- idempotency key, because Commet would answer the old key with the old refusal.
-- Deliveries are left out while a total of the same user and feature is being replaced, in any
-- period. This routine and begin_replacement both lock the user, so each sees the changes of the
-- other.
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
        attempts = 0, uncertain_since = null, compare_at = null, amount = null, currency = null,
        debt = null
    from parked
    where d.period = parked.period and d.feature = parked.feature and d.seq = parked.seq;
    get diagnostics v_driven = row_count;
    perform price_lost_usage(o.user_id, now())
    from unnest(v_users) as o (user_id)
    where exists (
        select from debt d
        where d.user_id = any (heirs_of(o.user_id)) and d.kind = 'lost_usage'
          and d.ended_at is null
    );
    return v_driven;
end
$$;

-- Resolves a parked delivery: a person has given the credit, accepted the loss, or found that
-- Commet has the delivery (p_delivered). Returns how many deliveries it resolved: 0 or 1. If the
-- delivery was part of a debt, lowers the debt.
create or replace function resolve_delivery(
    p_user text, p_event text, p_note text, p_delivered boolean
) returns bigint
language plpgsql as $$
declare
    r record;
begin
    perform from users where id = p_user for no key update;
    update usage_delivery d set
        resolved_at = now(), note = p_note, compare_at = null,
        state = case when p_delivered then 'sent' else d.state end,
        sent_at = case when p_delivered then now() else d.sent_at end,
        billed_period = case when p_delivered then d.period else d.billed_period end
    where d.event_id = p_event and d.user_id = p_user
      and d.state = 'parked' and d.resolved_at is null
      and not (d.kind = 'credit' and p_delivered)  -- a credit is money; it is never delivered
    returning d.period, d.feature, d.kind, d.debt into r;
    if not found then
        return 0;
    end if;
    if r.kind = 'replacement' then
        update usage_total set claims_paused_until = null
        where period = r.period and feature = r.feature;
    end if;
    if r.debt is not null then
        perform price_lost_usage(p_user, now());
    end if;
    return 1;
end
$$;
