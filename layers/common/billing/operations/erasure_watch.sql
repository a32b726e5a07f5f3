-- Erasures that are not finished (database/routines/erasing.sql).

-- Leases one erasure that is due, for two minutes.
-- name: lease
update erasure set due_at = now() + interval '2 minutes'
where user_id = (
    select user_id from erasure where due_at <= now() order by due_at limit 1
) and due_at <= now()
returning user_id, pseudonym, renamed_at is not null as renamed,
          finished_at is not null as finished, given_sha256 is not null as replaced,
          asked_at < now() - interval '60 days' as overdue

-- name: postpone
update erasure set
    tries = tries + 1, due_at = now() + least(interval '1 hour', interval '1 minute' * 2 ^ least(tries, 6))
where user_id = %(user_id)s

-- Waits an hour for deliveries, invoices and disputes to be closed.
-- name: look_again
update erasure set tries = 0, due_at = now() + interval '1 hour' where user_id = %(user_id)s

-- name: live
select id from subscriptions
where user_id = %(user_id)s and status in ('active', 'trialing', 'past_due', 'paused')

-- name: ended
update erasure set ended_at = now() where user_id = %(user_id)s and ended_at is null

-- Returns the user's customer. If a customer was asked for in the last day, it is awaited, because
-- Commet may still answer a checkout that was running.
-- name: customer
select u.commet_customer_id as id,
       u.commet_customer_id is null
           and coalesce(u.customer_requested_at > now() - interval '1 day', false) as awaited
from users u
where u.id = %(user_id)s

-- name: renamed
update erasure set renamed_at = now() where user_id = %(user_id)s

-- A day after Commet got the new id, no webhook with the old one arrives any more.
-- name: is_closed
select (
    e.ended_at < now() - interval '1 day' and e.renamed_at < now() - interval '1 day'
    and are_events_out(e.user_id)
    and not exists (
        select from usage_delivery d
        where d.user_id = e.user_id and d.state <> 'sent'
          and (d.state = 'pending' or d.resolved_at is null)
    )
    and not exists (
        select from usage_delivery d where d.user_id = e.user_id and d.compare_at is not null
    )
    and not exists (
        select from usage_period p where p.user_id = e.user_id and p.closed_at is null
    )
    and not exists (
        select from payment_trouble t
        where t.user_id = e.user_id and t.resolved_at is null
          and t.kind in ('dispute', 'failed_payment', 'unpaid_invoice')
    )
    and not exists (select from invoice_search s where s.user_id = e.user_id)
    and not exists (
        select from debt d where d.user_id = e.user_id and d.ended_at is null and d.amount is null
    )
    and not exists (
        select from contact_change c
        join users u on u.id = c.user_id and u.commet_customer_id is not null
        where c.user_id = e.user_id
    )
)
from erasure e
where e.user_id = %(user_id)s

-- name: done
update erasure set due_at = null where user_id = %(user_id)s and finished_at is not null

-- Moves debts that became known after the person came back.
-- name: move_debts
select move_debts(e.user_id, e.heir)
from erasure e
where e.heir is not null
  and exists (select from debt d where d.user_id = e.user_id and d.ended_at is null)

-- Returns how many erased users Commet still has something of after a day: a subscription or
-- undelivered usage, the given id, or the address.
-- name: stuck
select count(*) from (
    select user_id from erasure
    where due_at is not null and (ended_at is null or renamed_at is null)
      and asked_at < now() - interval '1 day'
    union
    select e.user_id from contact_change c
    join erasure e on e.user_id = c.user_id
    join users u on u.id = c.user_id and u.commet_customer_id is not null
    where e.asked_at < now() - interval '1 day'
) as s
