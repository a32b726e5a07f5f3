-- Debts and the parameters.

-- name: keep_floor
with gone as (
    delete from debt_floor where currency <> all (%(currencies)s::text[])
)
insert into debt_floor as f (currency, amount)
select currency, amount
from unnest(%(currencies)s::text[], %(amounts)s::numeric[]) as n (currency, amount)
on conflict (currency) do update set amount = excluded.amount
where f.amount <> excluded.amount

-- Updates users.has_debt of the users for whom it is wrong. Users are locked in the order of their
-- ids.
-- name: judge
select w.id, judge_debts(w.id)
from (
    select u.id from users u
    where u.has_debt and not exists (
        select from debtor o where o.user_id = u.id and o.is_debtor
    )
    union
    select o.user_id from debtor o
    join users u on u.id = o.user_id
    where o.is_debtor and not u.has_debt
    order by 1
    limit %(limit)s
) as w

-- name: forgive
select end_debts(array_agg(d.id), 'forgiven', %(author)s, %(note)s, %(now)s)
from debt d
where d.user_id = %(user_id)s and d.ended_at is null and d.id = coalesce(%(debt)s::bigint, d.id)
having count(*) > 0

-- name: note_refund
update debt_link set refunded_at = %(now)s, transaction_id = %(transaction_id)s
where (transaction_id = %(transaction_id)s or id = %(link)s::bigint)
  and overpaid > 0 and refunded_at is null
returning id

-- name: gauges
select (select count(*) from users where has_debt) as debtors,
       (select count(*) from debt_link where overpaid > 0 and refunded_at is null)
       as debts_paid_twice
