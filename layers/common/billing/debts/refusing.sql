-- Whether a user may check out.

-- Returns whether a debt of the user has to be searched or read, and a floor exists.
-- name: has_unread
select exists (select from debt_floor) and (
    exists (
        select from debt
        where user_id = %(user_id)s and kind in ('voided_invoice', 'lost_dispute')
          and amount is null and ended_at is null
    )
    or exists (
        select from invoice_search
        where user_id = %(user_id)s and (searches = 0 or due_at <= now())
    )
)

-- name: has_debt
select has_debt from users where id = %(user_id)s

-- Returns what a debtor owes in one currency: the currency of the offered link, if there is one.
-- `past_due` is the current subscription, if it is past due.
-- name: owed
select o.amount, o.currency,
       (select c.id from current_subscription c
        where c.user_id = o.user_id and c.status = 'past_due') as past_due
from debtor o
where o.user_id = %(user_id)s and o.is_debtor
order by exists (
             select from debt_link l
             where l.user_id = o.user_id and l.state = 'offered' and l.currency = o.currency
         ) desc,
         o.currency
limit 1
