-- One user's ledger in sums. Each row belongs to one period, because a plan change opens another
-- period on the same day, and only the sums of one period can be compared with the dashboard.

-- Sums by day, from usage_daily. They remain when the ledger is pruned.
-- name: by_day
with mine as (
    select id, starts_at, ends_at, subscription_id, plan_id
    from usage_period
    where user_id = %(user_id)s
      and starts_at < %(until)s::date and ends_at > %(since)s::date
      and (starts_at, id) >= (%(after_start)s::timestamptz, %(after_period)s::bigint)
)
select p.id as period, p.starts_at as period_start, p.ends_at as period_end, p.subscription_id,
       p.plan_id, d.day, d.feature, null as value, d.quantity, d.late, d.corrected
from mine p
join usage_daily d on d.period = p.id
where d.feature = coalesce(%(feature)s, d.feature)
  and d.day >= %(since)s::date and d.day < %(until)s::date
  and (p.starts_at, p.id, d.day, d.feature)
      > (%(after_start)s::timestamptz, %(after_period)s::bigint, %(after_day)s::date,
         %(after_feature)s::text)
order by p.starts_at, p.id, d.day, d.feature
limit %(limit)s

-- Sums by the values of a property, and also by day if `by_day` is true. `looked_at` is the number
-- of entries that were read. If `is_row` is false, the row has no sums, only `looked_at`.
-- name: by_property
with sums as materialized (
    select looked_at, entries, period, day, feature, value, quantity, late, corrected
    from sums_by_property(
        %(user_id)s, %(property)s, %(by_day)s, %(feature)s, %(since)s, %(until)s,
        %(after_start)s, %(after_period)s, %(booked_since)s, %(most)s
    )
),
page as (
    select p.id as period, p.starts_at as period_start, p.ends_at as period_end,
           p.subscription_id, p.plan_id, s.day, s.feature, s.value, s.quantity, s.late,
           s.corrected
    from sums s
    join usage_period p on p.id = s.period
    where s.entries > 0
      and (p.starts_at, p.id, coalesce(s.day, '-infinity'), s.feature, s.value is null,
           coalesce(s.value, ''))
          > (%(after_start)s::timestamptz, %(after_period)s::bigint, %(after_day)s::date,
             %(after_feature)s::text collate "C", %(after_none)s::boolean, %(after_value)s::text collate "C")
    order by p.starts_at, p.id, s.day, s.feature collate "C", s.value collate "C"
    limit %(limit)s
)
select g.period is not null as is_row, l.looked_at, g.period, g.period_start, g.period_end,
       g.subscription_id, g.plan_id, g.day, g.feature, g.value, g.quantity, g.late, g.corrected
from (select coalesce(max(looked_at), 0) as looked_at from sums) as l
left join page g on true
order by g.period_start, g.period, g.day, g.feature collate "C", g.value collate "C"
