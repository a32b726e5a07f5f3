-- Money that is left over when a period has ended: credits, drift and losses. Each is parked, for a
-- person to decide.

-- Writes the worth of a total's credits, for those whose worth is not known. This is possible once
-- every delivery of the total is placed. The newest correction takes off the cheapest units. Units
-- that Commet booked in a later period were sent last, so they are taken off first, at the terms of
-- that period. The caller has locked the user.
create or replace function price_credits(p_period bigint, p_feature text) returns void
language plpgsql as $$
declare
    v_own record;
    v_moved record;
    v_other record;
    v_all numeric;
begin
    if is_placement_unknown(p_period, p_feature) then
        return;
    end if;
    select t.total + t.carried as used, w.included, w.unit_price, w.currency into v_own
    from usage_total t
    join usage_terms w on w.period = t.period and w.feature = t.feature
    where t.period = p_period and t.feature = p_feature;
    select coalesce(sum(d.quantity), 0) as quantity, min(d.billed_period) as first,
           max(d.billed_period) as last
    into v_moved
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.state = 'sent'
      and d.billed_period <> d.period;
    if v_moved.first <> v_moved.last then
        return;  -- booked in several other periods: a person decides
    end if;
    select t.total + t.carried as used, w.included, w.unit_price into v_other
    from usage_total t
    join usage_terms w on w.period = t.period and w.feature = t.feature
    where t.period = v_moved.first and t.feature = p_feature;

    select coalesce(sum(c.quantity), 0) into v_all
    from usage_credit c
    join usage_event e on e.user_id = c.user_id and e.idempotency_key = c.idempotency_key
        and e.feature = c.feature
    where e.period = p_period and e.feature = p_feature;
    update usage_credit c set
        amount = w.amount, currency = coalesce(c.currency, v_own.currency)
    from (
        select n.user_id, n.idempotency_key,
               credit_amount(
                   n.quantity, v_all - n.upto, v_own.used + n.upto, v_own.included,
                   v_own.unit_price, v_moved.quantity, v_other.used, v_other.included,
                   v_other.unit_price
               ) as amount
        from (
            select e.user_id, e.idempotency_key, r.quantity,
                   sum(r.quantity) over (
                       order by e.booked_at desc, r.amount is null desc, e.idempotency_key
                   ) as upto
            from usage_event e
            join usage_credit r on r.user_id = e.user_id and r.feature = e.feature
                and r.idempotency_key = e.idempotency_key
            where e.period = p_period and e.feature = p_feature
        ) as n
    ) as w
    where c.user_id = w.user_id and c.idempotency_key = w.idempotency_key
      and c.feature = p_feature and c.amount is null;

    select coalesce(sum(d.excess), 0) into v_all
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.kind = 'credit' and d.quantity < 0;
    update usage_delivery d set
        amount = w.amount, currency = coalesce(d.currency, v_own.currency)
    from (
        select n.seq,
               credit_amount(
                   n.excess, v_all - n.upto, v_own.used + n.upto, v_own.included,
                   v_own.unit_price, v_moved.quantity, v_other.used, v_other.included,
                   v_other.unit_price
               ) as amount
        from (
            select r.seq, r.excess, sum(r.excess) over (order by r.seq desc) as upto
            from usage_delivery r
            where r.period = p_period and r.feature = p_feature and r.kind = 'credit'
              and r.quantity < 0
        ) as n
    ) as w
    where d.period = p_period and d.feature = p_feature and d.seq = w.seq and d.kind = 'credit'
      and d.state = 'parked' and d.amount is null;
end
$$;

-- Returns the worth, in major units, of p_quantity units that Commet billed too much. These units
-- end p_above units below the top of the billed quantity. With the period's own terms, the billed
-- quantity is p_upto. The topmost p_moved units were billed in another period, in which p_other was
-- used.
create or replace function credit_amount(
    p_quantity numeric, p_above numeric, p_upto numeric, p_included numeric, p_price numeric,
    p_moved numeric, p_other numeric, p_other_included numeric, p_other_price numeric
) returns numeric
language sql immutable as $$
    select case when m.moved = 0 then 0 else
               overage_value(p_other - p_above, p_other_included, p_other_price)
               - overage_value(p_other - p_above - m.moved, p_other_included, p_other_price)
           end
           + overage_value(p_upto - m.moved, p_included, p_price)
           - overage_value(p_upto - p_quantity, p_included, p_price)
    from (select greatest(least(p_quantity, p_moved - p_above), 0) as moved) as m
$$;

-- Makes the credits of corrections add up to the credits that were parked for their total. More was
-- parked if the period ended before Commet's total was lowered. Less was parked if Commet had
-- refused some of the usage. The credits of the newest corrections change by the difference. The
-- caller has locked the user.
create or replace function note_credits(p_period bigint, p_feature text) returns void
language plpgsql as $$
declare
    v_missing numeric;
begin
    select (
        select coalesce(sum(d.excess), 0) from usage_delivery d
        where d.period = p_period and d.feature = p_feature and d.kind = 'credit'
          and d.quantity < 0
    ) - (
        select coalesce(sum(c.quantity), 0)
        from usage_event e
        join usage_credit c on c.user_id = e.user_id and c.feature = e.feature
            and c.idempotency_key = e.idempotency_key
        where e.period = p_period and e.feature = p_feature
    ) into v_missing;
    insert into usage_credit as c (user_id, idempotency_key, feature, quantity)
    select l.user_id, l.idempotency_key, p_feature,
           l.credited + sign(v_missing) * least(l.room, abs(v_missing) - l.before)
    from (
        select n.user_id, n.idempotency_key, n.credited, n.room,
               sum(n.room) over (order by n.booked_at desc, n.idempotency_key) - n.room as before
        from (
            select e.user_id, e.idempotency_key, e.booked_at,
                   coalesce(r.quantity, 0) as credited,
                   case when v_missing > 0 then -e.quantity - coalesce(r.quantity, 0)
                        else coalesce(r.quantity, 0) end as room
            from usage_event e
            left join usage_credit r on r.user_id = e.user_id and r.feature = e.feature
                and r.idempotency_key = e.idempotency_key
            where e.period = p_period and e.feature = p_feature and e.kind = 'correction'
              and e.quantity < 0
        ) as n
    ) as l
    where l.room > 0 and l.before < abs(v_missing)
    on conflict (user_id, idempotency_key, feature) do update set
        quantity = excluded.quantity, amount = null;
end
$$;

-- Handles totals of closed periods in which more was claimed than counted. Returns how many totals
-- it looked at, p_limit at most. First it takes the excess off the refused deliveries, because
-- Commet has none of them. The remaining excess was sent to Commet, and Commet takes no correction
-- of a period that is over. So the remainder is parked as a credit that a person has to give.
-- Totals with an unanswered delivery are left for later, because Commet may refuse that delivery.
-- Totals of a trial or free period are left for later while Commet may have booked a delivery in the
-- paid period: Commet's total of that period is then lowered instead.
create or replace function credit_closed_periods(p_limit integer) returns bigint
language plpgsql as $$
declare
    v_seen bigint := 0;
    v_refused numeric;
    v_excess numeric;
    v_users text[];
    r record;
begin
    select array_agg(distinct n.user_id) into v_users
    from (
        select p.user_id
        from usage_total t
        join usage_period p on p.id = t.period
        where not t.fully_claimed and p.closed_at is not null and t.total < t.claimed
          and not is_unanswered(p.user_id, t.period, t.feature)
          and not may_be_billed(p, t.feature)
        limit p_limit
    ) as n;
    perform from users where id = any (v_users) order by id for no key update;
    for r in
        select t.period, t.feature, t.total, t.claimed, t.seq + 1 as seq, p.user_id, w.currency
        from usage_total t
        join usage_period p on p.id = t.period
        join usage_terms w on w.period = t.period and w.feature = t.feature
        where not t.fully_claimed and t.total < t.claimed and p.closed_at is not null
          and (t.claims_paused_until is null or t.claims_paused_until <= now())
          and p.user_id = any (v_users)
          and not is_unanswered(p.user_id, t.period, t.feature)
          and not may_be_billed(p, t.feature)
        limit p_limit
        for update of t skip locked
    loop
        v_seen := v_seen + 1;
        v_refused := lower_refused(r.period, r.feature, r.claimed - r.total);
        v_excess := greatest(r.claimed - r.total - v_refused, 0);
        update usage_total set
            claimed = claimed - v_refused - v_excess,
            seq = case when v_excess > 0 then r.seq else seq end
        where period = r.period and feature = r.feature;
        if v_excess > 0 then
            insert into usage_delivery (
                period, feature, seq, user_id, kind, quantity, event_id, body, state, reason,
                excess, currency
            )
            values (
                r.period, r.feature, r.seq, r.user_id, 'credit', -v_excess,
                delivery_name(r.period, r.user_id, r.feature, r.seq), '', 'parked', 'needs_credit',
                v_excess, r.currency
            );
        end if;
        perform note_credits(r.period, r.feature);
        perform price_credits(r.period, r.feature);
    end loop;
    -- The loop above may have lowered deliveries that were marked as lost.
    perform price_lost_usage(o.user_id, now())
    from unnest(v_users) as o (user_id)
    where exists (
        select from debt d
        where d.user_id = any (heirs_of(o.user_id)) and d.kind = 'lost_usage'
          and d.ended_at is null
    );
    return v_seen;
end
$$;

-- Turns the drift of closed periods into parked credits. Returns how many, p_limit at most. Drift
-- cannot be repaired after its period has ended, so a person decides about the money. Drift of a
-- total with a delivery that is pending or in doubt is left for later.
-- If the next period began at the same time, because the plan was changed on the period's first day,
-- the drift is forgotten: Commet's total was that of the next period, of which we had not heard.
-- The credit has quantity 0, because our own total is right. `excess` has the difference.
create or replace function close_drift(p_limit integer) returns bigint
language sql as $$
    with over as (
        select f.period, f.feature, f.user_id, f.ours, f.theirs, t.seq + 1 as seq,
               exists (
                   select from usage_period n
                   where n.user_id = p.user_id and n.id > p.id and n.starts_at = p.starts_at
               ) as was_of_next
        from usage_drift f
        join usage_period p on p.id = f.period
        join usage_total t on t.period = f.period and t.feature = f.feature
        where p.closed_at is not null and t.fully_claimed
          and not exists (
              select from usage_delivery d
              where d.user_id = f.user_id and d.feature = f.feature and d.period = f.period
                and (d.state = 'pending' or d.compare_at is not null)
          )
        limit p_limit
        for update of f, t skip locked
    ),
    numbered as (
        update usage_total t set seq = o.seq
        from over o
        where t.period = o.period and t.feature = o.feature and not o.was_of_next
    ),
    forgotten as (
        delete from usage_drift f using over o
        where f.period = o.period and f.feature = o.feature
    ),
    noted as (
        insert into usage_delivery (
            period, feature, seq, user_id, kind, quantity, event_id, body, state, reason,
            excess, amount, currency
        )
        select o.period, o.feature, o.seq, o.user_id, 'credit', 0,
               delivery_name(o.period, o.user_id, o.feature, o.seq), '', 'parked',
               case when o.theirs > o.ours then 'needs_credit' else 'not_billed' end,
               o.theirs - o.ours,
               overage_value(o.theirs, w.included, w.unit_price)
               - overage_value(o.ours, w.included, w.unit_price),
               w.currency
        from over o
        join usage_terms w on w.period = o.period and w.feature = o.feature
        where not o.was_of_next
        returning 1
    )
    select count(*) from noted
$$;

-- The refused deliveries that Commet can bill no more: because the subscription has ended, or because
-- the user left the delivery's plan at the end of its period, and the present plan takes no overage
-- of the feature (the rule of takes_overage). Usage of a trial or free plan is not lost by a change
-- of plan, because it is never billed. This is a view, and not a function, so that Postgres reads
-- the parked deliveries of all users by joins.
create or replace view lost_delivery as
select d.period, d.feature, d.seq, d.user_id, d.quantity
from usage_delivery d
join usage_period p on p.id = d.period
left join subscriptions s on s.id = p.subscription_id
where d.state = 'parked' and d.kind = 'event' and d.resolved_at is null
  and d.reason in (
      'no_active_subscription', 'included_limit_reached', 'feature_not_in_plan',
      'feature_disabled'
  )
  and (
      d.reason = 'no_active_subscription' and s.status = 'canceled'
      or p.closed_at is not null and not (p.is_free or p.is_trial)
         and p.plan_id <> (
             select n.plan_id from usage_period n
             where n.user_id = p.user_id and n.id > p.id
             order by n.id limit 1
         )
         and not exists (
             select from usage_period o
             join entitlements e on e.user_id = o.user_id and e.feature = d.feature
             where o.user_id = p.user_id and o.closed_at is null
               and (e.unlimited or e.overage_enabled and not (o.is_free or o.is_trial))
         )
  );

-- Marks refused deliveries that Commet can bill no more as lost (`lost_to_cancellation`) and writes
-- what they are worth: the price of the part beyond the included quantity, in the order in which the
-- deliveries were made. Their worth becomes a debt of the user. Looks at p_limit periods at most.
-- Returns how many deliveries it marked.
create or replace function mark_lost(p_limit integer) returns bigint
language plpgsql as $$
declare
    v_periods bigint[];
    v_users text[];
    v_marked bigint;
begin
    select array_agg(e.period), array_agg(distinct e.user_id) into v_periods, v_users
    from (
        select distinct d.period, d.user_id
        from lost_delivery d
        limit p_limit
    ) as e;
    perform from users where id = any (v_users) order by id for no key update;

    with counted as materialized (
        select d.period, d.feature, sum(d.quantity) as quantity
        from usage_delivery d
        where d.period = any (v_periods)
          and (d.state = 'sent' and d.billed_period = d.period
               or d.reason = 'lost_to_cancellation')
        group by d.period, d.feature
    ),
    refused as (
        select d.period, d.feature, d.seq, d.quantity,
               coalesce(c.quantity, 0)
               + sum(d.quantity) over (partition by d.period, d.feature order by d.seq) as upto
        from lost_delivery d
        left join counted c on c.period = d.period and c.feature = d.feature
        where d.period = any (v_periods)
    )
    update usage_delivery d set
        reason = 'lost_to_cancellation',
        amount = overage_value(w.carried + r.upto, w.included, w.unit_price)
                 - overage_value(w.carried + r.upto - r.quantity, w.included, w.unit_price),
        currency = w.currency
    from refused r
    join usage_terms w on w.period = r.period and w.feature = r.feature
    where d.period = r.period and d.feature = r.feature and d.seq = r.seq;
    get diagnostics v_marked = row_count;

    perform open_lost_usage(u.id, v_periods, now()) from unnest(v_users) as u (id);
    return v_marked;
end
$$;
