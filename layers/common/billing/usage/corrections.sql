-- Returns one row. The rules are in database/routines/corrections.sql.
-- name: correct
select c.verdict, c.used, (c.entry).quantity, (c.entry).needs_credit,
       (c.booked_in).starts_at as period_start, (c.booked_in).ends_at as period_end,
       (c.credit).quantity as credit_quantity, (c.credit).amount as credit_amount,
       (c.credit).currency as credit_currency
from correct_usage(
    %(user_id)s, %(feature)s, %(key)s, %(quantity)s, %(occurred_at)s, %(fingerprint)s, %(reason)s,
    %(author)s, %(now)s, %(statuses)s, %(corrects)s, %(spending)s::jsonb
) as c
