-- Payment links for debts.

-- name: offer
select id, debts, net, currency, payment_id, url, total, is_leased
from offer_debts(%(user_id)s, %(now)s)

-- name: end_lease
update debt_link set leased_until = null where id = %(id)s

-- Stores Commet's answer. Returns the link's state. If the debts changed during the call, the link
-- is superseded, and is canceled at once.
-- name: store
update debt_link set
    payment_id = %(payment_id)s, url = %(url)s, total = %(total)s, leased_until = null,
    due_at = case when state = 'offered' then now() + interval '5 minutes' else now() end
where id = %(id)s
returning state

-- Returns the user's links, and links of the user's debts that an erased account of the same person
-- got.
-- name: unfinished_of
select id, state, payment_id from debt_link
where state in ('offered', 'superseded') and payment_id is not null
  and (user_id = %(user_id)s or debts && array(
      select d.id from debt d where d.user_id = %(user_id)s and d.ended_at is null
  ))
order by id desc
limit %(limit)s

-- Leases links that are due, for five minutes.
-- name: lease_unfinished
with due as materialized (
    select id from debt_link
    where due_at <= now()
    order by due_at
    limit %(limit)s
    for update skip locked
)
update debt_link l set due_at = now() + interval '5 minutes'
from due
where l.id = due.id
returning l.id, l.state, l.payment_id

-- name: complete
select complete_link(%(payment_id)s, null, %(now)s)

-- name: end
update debt_link set state = 'canceled', ended_at = %(now)s, due_at = null
where id = %(id)s and state in ('offered', 'superseded')

-- Nobody has paid the link yet. Asks again, after pauses that double up to seven days.
-- name: ask_again
update debt_link set
    asks = asks + 1,
    due_at = now() + least(interval '7 days', interval '5 minutes' * 2 ^ least(asks, 20))
where id = %(id)s and state in ('offered', 'superseded')
