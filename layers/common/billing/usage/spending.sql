-- What users spend, and their limits. The rules are in database/routines/spending.sql.

-- Returns no row if the plan has no overage, or if no period runs.
-- name: spending
select o.spent, o.ceiling, o.set_by, o.currency as spent_in
from overage_of(
    array[%(user_id)s]::text[],
    array[(
        select p.id from usage_period p
        where p.user_id = %(user_id)s and p.closed_at is null and p.ends_at > %(now)s
    )],
    %(now)s::timestamptz, %(spending)s::jsonb
) as o
where exists (
    select from entitlements e
    where e.user_id = %(user_id)s and e.overage_enabled and not e.unlimited
)
and exists (select from usage_period p where p.user_id = %(user_id)s and p.closed_at is null)

-- Returns the currency of a user's amounts, and the limit that applies if the user has no own
-- limit. Returns no row for an unknown user.
-- name: limit_of
select o.currency, coalesce(u.spend_limit, o.by_default) as ceiling
from users u
cross join lateral overage_of(
    array[u.id], array[null::bigint], %(now)s::timestamptz, %(spending)s::jsonb
) as o
where u.id = %(user_id)s

-- name: set_product_limit
with changed as (
    update users set spend_limit = %(amount)s where id = %(user_id)s
    returning id
)
select audit(id, %(changed)s), look_again(id, %(now)s, %(spending)s::jsonb) from changed

-- name: set_user_limit
with changed as (
    update users set own_spend_limit = %(amount)s where id = %(user_id)s
    returning id
)
select audit(id, %(changed)s), look_again(id, %(now)s, %(spending)s::jsonb) from changed
