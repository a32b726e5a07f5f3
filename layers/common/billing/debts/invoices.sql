-- Invoices of ended subscriptions that were never paid.

-- Returns the user's ended subscriptions whose invoices were not read yet, or have to be read
-- again.
-- name: searches_of
select subscription_id, user_id from invoice_search
where user_id = %(user_id)s and (searches = 0 or due_at <= now())
limit %(limit)s

-- Leases due searches for five minutes.
-- name: lease_searches
with due as materialized (
    select subscription_id from invoice_search
    where due_at <= now()
    order by due_at
    limit %(limit)s
    for update skip locked
)
update invoice_search s set due_at = now() + interval '5 minutes'
from due
where s.subscription_id = due.subscription_id
returning s.subscription_id, s.user_id

-- An invoice still waits for payment. Searches again, after pauses that double up to a day.
-- name: search_again
update invoice_search set
    searches = searches + 1,
    due_at = now() + least(interval '1 day', interval '5 minutes' * 2 ^ least(searches, 20))
where subscription_id = %(subscription_id)s

-- Ends a search. A day after the first search there is a second one, because Commet may issue the
-- last invoice after it has reported the subscription's end.
-- name: end_search
with again as (
    update invoice_search set searches = searches + 1, due_at = now() + interval '1 day'
    where subscription_id = %(subscription_id)s and searches = 0
    returning subscription_id
)
delete from invoice_search
where subscription_id = %(subscription_id)s and searches > 0

-- name: open_unread
select open_debt(%(user_id)s, 'voided_invoice', %(source)s, null, null, %(now)s)

-- Returns the invoices of the user's debts of kind 'voided_invoice' whose amount is known.
-- name: read_of
select source from debt
where user_id = %(user_id)s and kind = 'voided_invoice' and amount > 0 and ended_at is null
order by id
limit %(limit)s

-- name: collected
select end_debt_of('voided_invoice', %(source)s, 'collected', %(now)s)
