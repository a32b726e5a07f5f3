-- Debts whose amount is not known yet.

-- name: unread_of
select d.id, d.kind, d.source, t.amount as disputed, t.currency
from debt d
left join lateral disputed(d.source) t on d.kind = 'lost_dispute'
where d.user_id = %(user_id)s and d.amount is null and d.ended_at is null
  and d.kind in ('voided_invoice', 'lost_dispute')
order by d.id
limit %(limit)s

-- Leases debts whose amount has to be read, for five minutes.
-- name: lease_unread
with due as materialized (
    select id from debt
    where due_at <= now()
    order by due_at
    limit %(limit)s
    for update skip locked
),
leased as (
    update debt d set due_at = now() + interval '5 minutes'
    from due
    where d.id = due.id
    returning d.id, d.kind, d.source
)
select l.id, l.kind, l.source, t.amount as disputed, t.currency
from leased l
left join lateral disputed(l.source) t on l.kind = 'lost_dispute'

-- Commet does not state the amount yet. Reads again, after pauses that double up to a day.
-- name: read_again
update debt set
    reads = reads + 1,
    due_at = now() + least(interval '1 day', interval '5 minutes' * 2 ^ least(reads, 20))
where id = %(id)s and amount is null and ended_at is null

-- name: record
select record_debt_amount(%(id)s, %(amount)s, %(tax)s, %(currency)s, %(now)s)
