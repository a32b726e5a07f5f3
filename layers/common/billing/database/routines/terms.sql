-- The terms on which usage is billed (included quantity, unit price, currency), and what usage
-- costs on these terms.

-- Returns what the overage of p_used costs, in major units: 0 if p_used is within p_included, null
-- if there is overage and its price is not known. p_unit_price is in the rate scale.
create or replace function overage_value(p_used numeric, p_included numeric, p_unit_price numeric)
returns numeric
language sql immutable as $$
    select case when p_used > p_included then (p_used - p_included) * p_unit_price * 0.0001
                else 0 end
$$;

-- Returns whether a closed period is billed on its kept terms (`usage_total.terms_at`), and not on
-- the entitlement's present ones. It is if the terms were kept when the period ended, or if they
-- were kept before and the entitlement gives nothing any more. The second case happens if news
-- arrives in another order, and takes the entitlement away before the period ends.
create or replace function are_terms_kept(
    p_terms_at timestamptz, p_closed_at timestamptz, p_allowed boolean, p_included numeric,
    p_unlimited boolean, p_overage_enabled boolean
) returns boolean
language sql immutable as $$
    select coalesce(
        p_terms_at >= p_closed_at
        or p_terms_at < p_closed_at
           and not coalesce(
               p_allowed or p_included > 0 or p_unlimited or p_overage_enabled, false
           ),
        false
    )
$$;

-- The terms on which each total is billed. For a closed period these are the terms that were kept
-- when it ended. For an open period, and if no terms were kept, they are the entitlement's present
-- terms. `included` is null if unlimited. `unit_price` is 0 if there is no overage, null if the
-- price is not known. `carried` uses up the included quantity before the usage that this period
-- counted.
create or replace view usage_terms as
select t.period, t.feature,
       case when k.kept then t.included
            when e.unlimited is not true then coalesce(e.included, 0) end as included,
       case when k.kept then t.unit_price
            when e.overage_enabled is false then 0 else e.unit_price end as unit_price,
       case when k.kept then t.currency else e.currency end as currency,
       t.carried
from usage_total t
join usage_period p on p.id = t.period
left join entitlements e on e.user_id = p.user_id and e.feature = t.feature
cross join lateral (
    select are_terms_kept(
        t.terms_at, p.closed_at, e.allowed, e.included, e.unlimited, e.overage_enabled
    ) as kept
) as k;

-- Copies a user's present terms to the user's totals. It is called just before the entitlements are
-- replaced, so that the usage counted so far keeps its price. The terms of a closed period are
-- written once: the terms it ended with or, if the entitlement was taken away before the end, the
-- last ones. Features that the plan no longer has are left out.
-- Usage may still come late for the user's last period if it was of a trial, of a free plan, of a
-- plan that the user has left or of a subscription that has ended. So features of that period that were not used get a total of 0, and
-- their terms are kept too.
create or replace function keep_terms(p_user text, p_now timestamptz) returns void
language sql as $$
    insert into usage_total (period, feature, total, fully_claimed)
    select p.id, e.feature, 0, true
    from (
        select n.id, n.subscription_id, n.plan_id, n.is_free, n.is_trial from usage_period n
        where n.user_id = p_user
        order by n.id desc limit 1
    ) as p
    join entitlements e on e.user_id = p_user
    where e.type = 'usage' and e.model is not distinct from 'metered'
      and (e.allowed or e.included > 0 or e.unlimited or e.overage_enabled)
      and (
          p.is_free or p.is_trial
          or exists (
              select from subscriptions s
              where s.id = p.subscription_id and (
                  s.status = 'canceled' or s.plan_id <> p.plan_id
                  or plan_end(
                      s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at, s.plan_id,
                      s.scheduled_change
                  ) <= p_now
              )
          )
      )
    order by e.feature
    on conflict (period, feature) do nothing;
    update usage_total t set
        included = case when not e.unlimited then coalesce(e.included, 0) end,
        unit_price = case when e.overage_enabled then e.unit_price else 0 end,
        currency = e.currency,
        terms_at = p_now
    from usage_period p
    join entitlements e on e.user_id = p.user_id
    where p.user_id = p_user and t.period = p.id and t.feature = e.feature
      and (p.closed_at is null or t.terms_at is null or t.terms_at < p.closed_at)
      and (e.allowed or e.included > 0 or e.unlimited or e.overage_enabled);
    -- The totals that are left had lost their entitlement when their period ended.
    update usage_total t set terms_at = p.closed_at
    from usage_period p
    where p.user_id = p_user and t.period = p.id and t.terms_at < p.closed_at
$$;
