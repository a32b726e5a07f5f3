-- Thresholds of usage and spending. The rules are in database/routines/thresholds.sql.

-- name: add
select a.verdict, (a.kept).id, (a.kept).user_id, (a.kept).set_by, (a.kept).measure,
       (a.kept).feature, (a.kept).percent, (a.kept).amount, (a.kept).created_at
from add_threshold(
    %(id)s, %(user_id)s, %(set_by)s, %(measure)s, %(feature)s, %(percent)s, %(amount)s, %(most)s,
    %(now)s, %(spending)s::jsonb
) as a

-- name: remove
select remove_threshold(%(id)s, %(user_id)s, %(now)s, %(spending)s::jsonb)

-- name: change
select c.verdict, (c.kept).id, (c.kept).user_id, (c.kept).set_by, (c.kept).measure,
       (c.kept).feature, (c.kept).percent, (c.kept).amount, (c.kept).created_at
from change_threshold(
    %(id)s, %(user_id)s, %(percent)s, %(amount)s, %(now)s, %(spending)s::jsonb
) as c

-- Returns one threshold. A user sees own ones, those that a product added for the user, and those
-- of all users. If user_id is null, returns any.
-- name: get
select n.id, n.user_id, n.set_by, n.measure, n.feature, n.percent, n.amount, n.created_at
from threshold n
where n.id = %(id)s
  and (%(user_id)s::text is null or n.user_id = %(user_id)s or n.user_id is null)

-- name: of
select n.id, n.user_id, n.set_by, n.measure, n.feature, n.percent, n.amount, n.created_at
from threshold n
where n.user_id is not distinct from %(user_id)s
order by n.measure desc, n.feature nulls first, n.percent, n.amount, n.id

-- Returns the thresholds that apply to a user: the user's own, and those of the others that no more
-- specific threshold hides (thresholds_in_effect). A default has no id and no time.
-- name: applying
with candidate as materialized (
    select n.id, n.user_id, n.set_by, n.measure, n.feature, n.percent, n.amount, n.created_at,
           case when n.set_by = 'user' then 0
                else 1 + 2 * (n.user_id is null)::integer + (n.feature is null)::integer
           end as rank
    from threshold n
    where n.user_id = %(user_id)s or n.user_id is null
    union all
    select null, null, 'default', m.measure, null, d.percent, null, null, 5
    from (values ('usage'), ('spend')) as m (measure), (values (80), (100)) as d (percent)
)
select c.id, c.user_id, c.set_by, c.measure, c.feature, c.percent, c.amount, c.created_at
from candidate c
where not exists (
    select from candidate o
    where o.measure = c.measure and o.rank > 0 and o.rank < c.rank
      and (o.feature is null or o.feature = c.feature)
)
order by c.measure desc, c.feature nulls first, c.percent, c.amount, c.rank, c.id

-- Returns which thresholds were reached in a user's running period, and when.
-- name: reached
select n.measure, nullif(n.feature, '') as feature, n.mark, n.reached_at
from usage_period p
join threshold_reached n on n.period = p.id
where p.user_id = %(user_id)s and p.closed_at is null and n.mark <> 'refused'
order by n.reached_at, n.feature

-- Emits an event, once per period and feature, if usage was refused because the limit was reached,
-- and once per period if overage was refused because of the spend limit. Usage that occurred before
-- the running period is left out, because another limit applied to it. The rows are in the order of
-- locking.
-- name: tell_refused
with refused as (
    select distinct p.id as period, p.user_id, p.starts_at, p.ends_at, q.measure, q.feature
    from unnest(
        %(users)s::text[], %(measures)s::text[], %(features)s::text[], %(occurred)s::timestamptz[]
    ) as q (user_id, measure, feature, occurred_at)
    join usage_period p on p.user_id = q.user_id and p.closed_at is null
    where coalesce(q.occurred_at >= greatest(p.starts_at, p.paid_from), true)
),
reached as (
    insert into threshold_reached (period, measure, feature, mark, reached_at)
    select period, measure, feature, 'refused', %(now)s from refused
    order by period, measure, feature
    on conflict do nothing
    returning period, measure, feature
)
select emit_event(
    r.user_id, r.measure || '.limit_reached', %(now)s,
    f.facts || jsonb_build_object(
        'period_start', rfc3339(r.starts_at), 'period_end', rfc3339(r.ends_at)
    )
)
from reached n
join refused r on r.period = n.period and r.measure = n.measure and r.feature = n.feature
join usage_period p on p.id = r.period
cross join lateral (
    select jsonb_build_object(
        'feature', r.feature, 'used', trim_scale(used_in(p, r.feature, %(now)s))::text,
        'limit', (
            select trim_scale(coalesce(e.included, 0))::text from entitlements e
            where e.user_id = r.user_id and e.feature = r.feature
        )
    ) as facts
    where r.measure = 'usage'
    union all
    select jsonb_build_object(
        'spent', trim_scale(o.spent)::text, 'limit', trim_scale(o.ceiling)::text,
        'currency', o.currency
    )
    from booked_overage_of(array[r.user_id], array[r.period], %(spending)s::jsonb) as o
    where r.measure = 'spend'
) as f

-- Stores the ceilings. Requests a round if they differ from the stored ones.
-- name: note_ceilings
with changed as (
    insert into evaluated_ceilings as c (id, ceilings)
    values (1, coalesce(%(spending)s::jsonb->'ceilings', '{}'))
    on conflict (id) do update set ceilings = excluded.ceilings
    where c.ceilings <> excluded.ceilings
    returning id
)
select request_look() from changed

-- Checks the thresholds of users with an open period, after `after`, in the order of their ids,
-- which is the order of locking.
-- name: look_again
select w.user_id, look_again(w.user_id, %(now)s, %(spending)s::jsonb)
from (
    select p.user_id from usage_period p
    where p.closed_at is null and p.user_id > %(after)s
    order by p.user_id
    limit %(limit)s
) as w
order by w.user_id
