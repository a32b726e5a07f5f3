-- A webhook about a failed payment does not contain the amount, but a webhook about the same
-- invoice being overdue does. An invoice that was paid or voided is no trouble any more, whichever
-- webhook said so.
-- name: open_of_user
select t.kind, t.opened_at as since, coalesce(t.amount, i.amount) as amount,
       coalesce(t.currency, i.currency) as currency, t.recovery_url
from payment_trouble t
left join payment_trouble i
    on i.user_id = t.user_id and i.kind = 'unpaid_invoice' and i.about = t.invoice_id
where t.user_id = %(user_id)s and t.resolved_at is null
  and (t.kind = 'dispute' or (
      t.kind in ('failed_payment', 'unpaid_invoice')
      and exists (
          select from subscriptions s
          where s.id = t.subscription_id and s.user_id = t.user_id and s.status = 'past_due'
      )
      and not exists (
          select from payment_trouble e
          where e.user_id = t.user_id and e.kind in ('failed_payment', 'unpaid_invoice')
            and e.about = t.about and e.resolved_at is not null
      )
  ))
order by array_position(array['failed_payment', 'dispute', 'unpaid_invoice'], t.kind),
         t.changed_at desc, t.about
limit 1

-- name: has_open_dispute
select has_dispute from users where id = %(user_id)s
