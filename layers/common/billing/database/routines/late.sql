-- Usage that belongs to a period that is over: usage of a trial or free plan that a paid period has
-- followed, and usage that is reported shortly after access ended
-- (docs/decisions/0034-where-late-usage-belongs.md).

-- Returns, for the first paid period after a trial or free plan, that earlier period, and since when
-- the user pays (`free_period`, `paid_from`). Null if no trial or free plan led to p without a gap.
create or replace function after_unbilled(
    p usage_period, out free_period bigint, out paid_from timestamptz
)
language plpgsql stable as $$
declare
    v_subscription record;
    v_before record;
begin
    select s.trial_ends_at, s.known_at into v_subscription
    from subscriptions s
    where s.id = p.subscription_id;
    select b.id, b.subscription_id, b.plan_id, b.is_free, b.is_trial, b.ends_at, b.closed_at
    into v_before
    from usage_period b
    where b.user_id = p.user_id and b.id < p.id
    order by b.id desc limit 1;
    if not found or least(v_before.ends_at, v_before.closed_at) < p.starts_at
       or p.is_free or not v_before.is_free and (p.is_trial or not v_before.is_trial) then
        return;
    end if;
    free_period := v_before.id;
    paid_from := least(
        v_before.closed_at,
        case when v_before.is_trial then coalesce(v_subscription.trial_ends_at, v_before.ends_at) end,
        -- If the plan changed, the user pays since the time of that change, and not since we heard
        -- of it.
        case when v_before.subscription_id = p.subscription_id
                  and v_before.plan_id <> p.plan_id
             then to_timestamp((v_subscription.known_at->>'plan_id')::numeric) end
    );
end
$$;

-- Sets columns of a period that begins. `is_trial`: Commet bills nothing of the period. If a trial
-- or free plan led to this period without a gap, `free_period` is that earlier period. Usage before
-- `paid_from` belongs to `free_period`, although Commet's new period begins at midnight of that
-- day.
create or replace function begin_period() returns trigger
language plpgsql as $$
begin
    new.is_trial := exists (
        select from subscriptions s where s.id = new.subscription_id and s.status = 'trialing'
    );
    select a.free_period, a.paid_from into new.free_period, new.paid_from
    from after_unbilled(new) as a;
    return new;
end
$$;

create or replace trigger begin_usage_period
before insert on usage_period
for each row execute function begin_period();

-- A period of a trial may turn out to be the first paid period. Then its usage is billed.
create or replace function end_trial_period() returns trigger
language plpgsql as $$
begin
    new.is_trial := not exists (
        select from subscriptions s
        where s.id = new.subscription_id and s.status in ('active', 'past_due')
    );
    if not new.is_trial and new.free_period is null then
        select a.free_period, a.paid_from into new.free_period, new.paid_from
        from after_unbilled(new) as a;
    end if;
    return new;
end
$$;

create or replace trigger end_usage_period_of_trial
before update of starts_at, ends_at on usage_period
for each row
when (old.is_trial and new.closed_at is null)
execute function end_trial_period();

-- The first paid period may be opened while the mirror still says that the trial runs: a refresh may
-- read the subscription just before the trial ends, and the features just after. When the mirror
-- hears that the user pays, such a period is judged again. It follows a period of the trial, and
-- began on the day on which the trial ended, or later. Other periods are left alone: a period of a
-- long trial follows another period of that trial too.
create or replace function judge_period_of_trial() returns trigger
language plpgsql as $$
begin
    update usage_period p set ends_at = p.ends_at  -- end_trial_period does the rest
    where p.user_id = new.user_id and p.subscription_id = new.id and p.closed_at is null
      and p.is_trial
      and p.starts_at >= date_trunc(
          'day',
          least(
              old.trial_ends_at, new.trial_ends_at,
              to_timestamp((new.known_at->>'status')::numeric)
          ),
          'UTC'
      )
      and exists (
          select from usage_period b
          where b.user_id = p.user_id and b.id < p.id and b.is_trial
            and b.subscription_id = p.subscription_id
      );
    return null;
end
$$;

create or replace trigger judge_period_of_ended_trial
after update of status on subscriptions
for each row
when (old.status = 'trialing' and new.status in ('active', 'past_due'))
execute function judge_period_of_trial();

-- Returns whether Commet bills nothing of a period. Usage of such a period is not delivered once
-- the period is over, because Commet would book the usage in the paid period that follows.
create or replace function is_unbilled(p usage_period) returns boolean
language sql stable as $$ select p.is_free or p.is_trial $$;

-- When a trial or free period is closed, marks its undelivered usage as withheld. Deletes
-- deliveries that no run has tried to send. If the period is opened again, nothing is withheld any
-- more.
create or replace function withhold_usage() returns trigger
language plpgsql as $$
begin
    if new.closed_at is null then
        update usage_total set withheld = 0, fully_claimed = false
        where period = new.id and withheld > 0;
        return null;
    end if;
    -- This lock waits for a claim that is running, so that the statement below sees the claim's
    -- deliveries.
    perform from usage_total where period = new.id order by feature for no key update;
    with taken_back as (
        delete from usage_delivery d
        where d.period = new.id and d.state = 'pending' and d.kind = 'event'
          and d.uncertain_since is null
        returning d.feature, d.quantity
    ),
    by_feature as (
        select feature, sum(quantity) as quantity from taken_back group by feature
    )
    update usage_total t set
        claimed = t.claimed - coalesce(b.quantity, 0),
        withheld = greatest(t.total - t.claimed + coalesce(b.quantity, 0), 0)
    from usage_total n
    left join by_feature b on b.feature = n.feature
    where n.period = new.id and t.period = n.period and t.feature = n.feature;
    return null;
end
$$;

create or replace trigger withhold_usage_of_closed
after update of closed_at on usage_period
for each row
when ((old.closed_at is null) <> (new.closed_at is null) and (new.is_free or new.is_trial))
execute function withhold_usage();

-- Returns when the access that includes p_period began: the start of the first of all periods that
-- led to p_period without a gap. There is no gap between two periods of one subscription, unless the
-- first was closed early, by a cancellation, and the second began later, with the reactivation.
-- Periods before p_since are not searched.
create or replace function access_began(p_period bigint, p_since timestamptz)
returns timestamptz
language sql stable as $$
    with recursive chain as (
        select p.id, p.user_id, p.subscription_id, p.starts_at
        from usage_period p
        where p.id = p_period
        union all
        select b.id, b.user_id, b.subscription_id, least(b.starts_at, c.starts_at)
        from chain c
        cross join lateral (
            select n.id, n.user_id, n.subscription_id, n.starts_at,
                   least(n.ends_at, n.closed_at) as ended_at,
                   coalesce(n.closed_at < n.ends_at, false) as closed_early
            from usage_period n
            where n.user_id = c.user_id and n.id < c.id
            order by n.id desc limit 1
        ) as b
        where c.starts_at > p_since
          and (b.ended_at >= c.starts_at
               or b.subscription_id = c.subscription_id and not b.closed_early)
    )
    select min(starts_at) from chain
$$;

-- Returns the user's last period, and the time at which access in that period ended or is known to
-- end. Returns no row if the user never had a period. p_before: only periods that began before
-- p_before.
create or replace function last_access(p_user text, p_statuses text[], p_before timestamptz)
returns table (period bigint, ended_at timestamptz)
language sql stable as $$
    select p.id,
           least(
               p.ends_at, p.closed_at,
               case when s.status <> 'canceled' and s.status <> all (p_statuses)
                    then to_timestamp(coalesce(
                        (s.known_at->>'status')::numeric, extract(epoch from s.changed_at)
                    )) end
           )
    from usage_period p
    left join subscriptions s on s.id = p.subscription_id
    where p.user_id = p_user and p.starts_at < p_before
    order by p.closed_at desc nulls first, p.id desc
    limit 1
$$;

-- Returns whether Commet takes any quantity of a feature in the user's running period, because the
-- plan sells overage or is unlimited. False if the user has no entitlement.
create or replace function takes_overage(p usage_period, p_feature text) returns boolean
language sql stable as $$
    select coalesce((
        select e.unlimited or e.overage_enabled and not is_unbilled(p)
        from entitlements e
        where e.user_id = p.user_id and e.feature = p_feature
    ), false)
$$;

-- Returns the period of the plan that the user left when p_period began, if that plan was billed,
-- and the plan of p_period takes no overage of the feature. Commet then refuses in p_period what it
-- would have billed before. Returns null if p_at is not before the change, and if nothing is known
-- about the feature in the earlier plan.
create or replace function left_period(
    p_user text, p_feature text, p_period bigint, p_at timestamptz
) returns bigint
language sql stable as $$
    select b.id
    from usage_period n
    cross join lateral (
        select p.id, p.plan_id, p.ends_at, p.closed_at, is_unbilled(p) as is_unbilled
        from usage_period p
        where p.user_id = p_user and p.id < n.id
        order by p.id desc limit 1
    ) as b
    join usage_total t on t.period = b.id and t.feature = p_feature
    left join entitlements e on e.user_id = p_user and e.feature = p_feature
    where n.id = p_period and p_at < b.closed_at
      and b.plan_id <> n.plan_id and not b.is_unbilled
      and least(b.ends_at, b.closed_at) >= n.starts_at
      and not takes_overage(n, p_feature)
      and are_terms_kept(
          t.terms_at, b.closed_at, e.allowed, e.included, e.unlimited, e.overage_enabled
      )
$$;

-- Returns where usage of time p_occurred belongs. Returns no row if it belongs in the running
-- period p_period. p_code is why usage of this moment is refused, null if it is not.
--   code    why the usage is refused: 'before_subscription', if it belongs to no period, or
--           'feature_not_in_plan'; null if it is not refused
--   period  the period that is over; the other columns are those of usage_standing
--   beyond  the included quantity less `carried`; null if the usage may not have overage
-- Usage that occurred while the subscription was paused belongs to no period, although Commet goes on
-- with the period when the pause is over.
-- Usage of a trial or free plan counts against the included quantity of that plan and has no
-- overage. Usage that occurred before access ended, and is reported within p_grace, may have
-- overage in good standing, as while access ran. So may usage that occurred before a change to a
-- plan that takes no overage of the feature, or does not have the feature.
create or replace function late_place(
    p_user text, p_feature text, p_occurred timestamptz, p_period bigint, p_code text,
    p_now timestamptz, p_statuses text[], p_grace interval
) returns table (
    code text, period bigint, starts_at timestamptz, ends_at timestamptz, used numeric,
    cap numeric, cap_code text, held numeric, beyond numeric, unit_price numeric
)
language plpgsql stable as $$
declare
    v_began timestamptz;
    v_period bigint;
    v_left boolean := false;  -- v_period was left for a plan that does not take its overage
begin
    if p_code is null and exists (
        select from subscriptions s
        where s.user_id = p_user and p_occurred >= s.paused_at
          and p_occurred < s.resumed_at - interval '5 minutes'
    ) then
        return query
            select 'before_subscription'::text, p_period, null::timestamptz, null::timestamptz,
                   0::numeric, null::numeric, null::text, 0::numeric, null::numeric, null::numeric;
        return;
    end if;
    if p_code is null or p_code = 'feature_not_in_plan' then
        v_began := date_trunc('day', access_began(p_period, p_occurred), 'UTC')
                   - interval '5 minutes';
        if p_code is null and p_occurred >= v_began then
            select n.free_period into v_period
            from usage_period n
            where n.user_id = p_user and n.paid_from > p_occurred and n.id <= p_period
              -- A paid plan that came before the free one, and ended after this usage, had it.
              and not exists (
                  select from usage_period e
                  where e.user_id = p_user and e.id < n.free_period and not is_unbilled(e)
                    and p_occurred < least(e.ends_at, e.closed_at)
              )
            order by n.paid_from, n.id limit 1;
        end if;
        if v_period is null and p_occurred >= v_began then
            select left_period(p_user, p_feature, n.id, p_occurred) into v_period
            from usage_period n
            where n.id = p_period and p_occurred < n.starts_at
              and p_now < n.starts_at + p_grace;
            v_left := v_period is not null;
        end if;
        if p_code is not null and v_period is null then
            return;
        end if;
    elsif p_code not in ('subscription_required', 'access_unconfirmed') then
        return;
    end if;
    if not v_left and (p_code is not null or p_occurred < v_began) then
        select a.period into v_period
        from last_access(p_user, p_statuses, coalesce(v_began, 'infinity')) as a
        where p_occurred < a.ended_at and p_now < a.ended_at + p_grace
          -- If access is in doubt before its known end, only Commet can decide, so nothing is
          -- booked.
          and (p_code is distinct from 'access_unconfirmed' or a.ended_at <= p_now);
    end if;
    if v_period is not null then
        return query
            select null::text, p.id, p.starts_at, p.ends_at, coalesce(t.total, 0),
                   case when k.included is not null and not k.has_overage
                        then k.included - coalesce(t.carried, 0) - k.used_before end,
                   case when k.sells_overage then 'payment_overdue' else 'limit_reached' end,
                   case when p_code is not null or v_left then h.held else 0 end,
                   case when k.has_overage then k.included - coalesce(t.carried, 0) end,
                   w.unit_price
            from usage_period p
            join users u on u.id = p.user_id
            left join subscriptions s on s.id = p.subscription_id
            left join usage_total t on t.period = p.id and t.feature = p_feature
            left join entitlements e on e.user_id = p.user_id and e.feature = p_feature
            cross join lateral (
                select are_terms_kept(
                    t.terms_at, p.closed_at, e.allowed, e.included, e.unlimited, e.overage_enabled
                ) as kept
            ) as o
            cross join lateral (
                select case when o.kept then t.included
                            when e.unlimited is not true then coalesce(e.included, 0) end
                           as included,
                       case when o.kept then t.unit_price
                            when not e.overage_enabled then 0 else e.unit_price end as unit_price
            ) as w
            cross join lateral (
                select w.included,
                       not is_unbilled(p) and w.unit_price is distinct from 0 as sells_overage,
                       not is_unbilled(p) and w.unit_price is distinct from 0
                           and w.included is not null
                           and not u.has_debt and not u.has_dispute
                           and not coalesce(s.ended_overdue or s.status = 'past_due', false)
                           as has_overage,
                       case when p.is_free then used_before_of(p.id, p_feature, p_occurred)
                            else 0 end as used_before
            ) as k
            cross join lateral (
                select coalesce(sum(r.quantity), 0) as held
                from usage_reservation r
                where r.user_id = p_user and r.feature = p_feature and r.state = 'held'
                  and r.expires_at > p_now
            ) as h
            where p.id = v_period
              and (
                  o.kept
                  -- The present entitlements are still those of the period, unless the user left a
                  -- free plan.
                  or (p_code is not null or p.is_trial)
                     and e.type = 'usage' and e.model is not distinct from 'metered'
                     and (e.allowed or e.included > 0 or e.unlimited or e.overage_enabled)
              );
        if not found and p_code is null then
            return query
                select 'feature_not_in_plan'::text, v_period, null::timestamptz, null::timestamptz,
                       0::numeric, null::numeric, null::text, 0::numeric, null::numeric,
                       null::numeric;
        end if;
    elsif p_occurred < v_began then
        return query
            select 'before_subscription'::text, p_period, null::timestamptz, null::timestamptz,
                   0::numeric, null::numeric, null::text, 0::numeric, null::numeric, null::numeric;
    end if;
end
$$;
