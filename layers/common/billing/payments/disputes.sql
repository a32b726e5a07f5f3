-- name: lease_oldest
with oldest as materialized (
    select user_id, about from payment_trouble
    where kind = 'dispute' and resolved_at is null and changed_at <= %(before)s
      and (asked_at is null or asked_at <= %(before)s)
    order by changed_at
    limit 1
    for no key update skip locked
)
update payment_trouble t set asked_at = %(now)s
from oldest
where t.user_id = oldest.user_id and t.kind = 'dispute' and t.about = oldest.about
returning t.user_id, t.about as transaction_id, t.changed_at

-- name: unlease
update payment_trouble set asked_at = null
where user_id = %(user_id)s and kind = 'dispute' and about = %(transaction_id)s

-- name: end
select end_dispute(%(user_id)s, %(transaction_id)s, %(seen)s, %(now)s, %(outcome)s)
