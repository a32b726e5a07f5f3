-- Returns the user's usage of each usage feature of the plan, in the period that contains `now`.
-- One statement reads totals and days, so the days add up to the total even while usage is booked.
-- name: usage_of_user
select s.feature, s.name, s.unit,
       coalesce(f.starts_at, s.starts_at) as starts_at,
       coalesce(f.ends_at, s.ends_at) as ends_at,
       s.used, s.held, s.carried, s.used_before, s.included, s.unlimited, s.overage, s.unit_price, s.currency,
       coalesce(d.days, '{}') as days, coalesce(d.quantities, '{}') as quantities
from (
    select array_agg(user_id) as users, array_agg(feature) as features
    from entitlements
    where user_id = %(user_id)s and type = 'usage' and model is not distinct from 'metered'
      -- A feature that the plan no longer has still has a row, which allows nothing.
      and (allowed or included > 0 or unlimited or overage_enabled)
) as granted
cross join lateral usage_standing(
    granted.users, granted.features, %(now)s::timestamptz, '{}'::text[]
) as s
left join lateral following_period(s.starts_at, s.ends_at, %(now)s::timestamptz) as f
    on s.ends_at <= %(now)s and not s.goes_on
left join lateral (
    select array_agg(y.day order by y.day) as days,
           array_agg(y.quantity order by y.day) as quantities
    from usage_daily y
    where y.period = s.period and y.feature = s.feature
      and (s.ends_at > %(now)s or s.goes_on)
) as d on true
where s.period is not null
order by s.feature
