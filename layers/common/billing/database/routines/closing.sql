-- Money that is left over when a period has ended: credits, drift and losses. Each is parked, for a
-- person to decide.

-- Handles totals of closed periods that have claimed more than they counted. Returns how many
-- totals it looked at, p_limit at most. The excess is first taken off the refused deliveries,
-- because Commet has none of them. The rest was sent to Commet, which takes no correction of a
-- period that is over. So the rest is parked as a credit that a person has to give.
create or replace function credit_closed_periods(p_limit integer) returns bigint
language plpgsql as $$
declare
    v_seen bigint := 0;
    v_refused numeric;
    v_excess numeric;
    r record;
begin
    for r in
        select t.period, t.feature, t.total, t.claimed, t.seq + 1 as seq, p.user_id,
               w.included, w.unit_price, w.currency, t.total + t.carried as billed,
               is_billed_elsewhere(t.period, t.feature) as elsewhere
        from usage_total t
        join usage_period p on p.id = t.period
        join usage_terms w on w.period = t.period and w.feature = t.feature
        where not t.fully_claimed and t.total < t.claimed and p.closed_at is not null
          and (t.claims_paused_until is null or t.claims_paused_until <= now())
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
                excess, amount, currency
            )
            values (
                r.period, r.feature, r.seq, r.user_id, 'credit', -v_excess,
                delivery_name(r.period, r.user_id, r.feature, r.seq), '', 'parked', 'needs_credit',
                v_excess,
                case when not r.elsewhere
                     then overage_value(r.billed + v_excess, r.included, r.unit_price)
                          - overage_value(r.billed, r.included, r.unit_price) end,
                r.currency
            );
        end if;
    end loop;
    return v_seen;
end
$$;

-- Turns the drift of closed periods into parked credits; returns how many, p_limit at most. Drift
-- cannot be repaired after its period has ended, so a person decides about the money. Drift waits
-- while a delivery of its total is pending or in doubt.
-- The credit has quantity 0, because our own total is right; `excess` has the difference.
create or replace function close_drift(p_limit integer) returns bigint
language sql as $$
    with over as (
        select f.period, f.feature, f.user_id, f.ours, f.theirs, t.seq + 1 as seq
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
        where t.period = o.period and t.feature = o.feature
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
        returning 1
    )
    select count(*) from noted
$$;

-- Marks refused deliveries of ended subscriptions as lost (`lost_to_cancellation`) and notes what
-- they were worth: the price of the part beyond the included quantity, in the order the deliveries
-- were made. Looks at p_limit periods at most. Returns how many deliveries it marked.
create or replace function mark_lost(p_limit integer) returns bigint
language sql as $$
    with ended as materialized (
        select distinct d.period
        from usage_delivery d
        join usage_period p on p.id = d.period
        join subscriptions s on s.id = p.subscription_id
        where d.state = 'parked' and d.reason = 'no_active_subscription' and d.resolved_at is null
          and s.status = 'canceled'
        limit p_limit
    ),
    counted as materialized (
        select d.period, d.feature, sum(d.quantity) as quantity
        from usage_delivery d
        where d.period in (select e.period from ended e)
          and (d.state = 'sent' and d.billed_period = d.period
               or d.reason = 'lost_to_cancellation')
        group by d.period, d.feature
    ),
    refused as (
        select d.period, d.feature, d.seq, d.quantity,
               coalesce(c.quantity, 0)
               + sum(d.quantity) over (partition by d.period, d.feature order by d.seq) as upto
        from usage_delivery d
        left join counted c on c.period = d.period and c.feature = d.feature
        where d.period in (select e.period from ended e)
          and d.state = 'parked' and d.reason = 'no_active_subscription' and d.resolved_at is null
    ),
    lost as (
        update usage_delivery d set
            reason = 'lost_to_cancellation',
            amount = overage_value(w.carried + r.upto, w.included, w.unit_price)
                     - overage_value(w.carried + r.upto - r.quantity, w.included, w.unit_price),
            currency = w.currency
        from refused r
        join usage_terms w on w.period = r.period and w.feature = r.feature
        where d.period = r.period and d.feature = r.feature and d.seq = r.seq
        returning 1
    )
    select count(*) from lost
$$;
