-- Whatever becomes of other unpaid checkouts of this user is Commet's to say.
-- name: mark_other_pending
with one as (
    select id from users where id = %(user_id)s for no key update
)
update subscriptions set refresh_due = least(refresh_due, now())
where user_id = (select id from one) and id <> %(id)s and status = 'pending_payment'

-- name: unlink_customer
update users set commet_customer_id = null
where id = %(user_id)s and commet_customer_id = %(customer_id)s

-- name: link_customer
update users set commet_customer_id = %(customer_id)s
where id = %(user_id)s and commet_customer_id is distinct from %(customer_id)s

-- Takes the right to talk to Commet about this user's checkout, for half a minute; no row while
-- somebody else has it. Another intent, a concluded checkout or a day's age make a new attempt.
-- name: lease_checkout
insert into checkout_attempt as c
    (user_id, attempt, plan_code, billing_interval, success_url, started_at, leased_until)
values
    (%(user_id)s, 1, %(plan_code)s, %(billing_interval)s, %(success_url)s, now(),
     now() + interval '30 seconds')
on conflict (user_id) do update set
    (attempt, plan_code, billing_interval, success_url, started_at, subscription_id) = (
        select case when anew then c.attempt + 1 else c.attempt end,
               excluded.plan_code, excluded.billing_interval, excluded.success_url,
               case when anew then now() else c.started_at end,
               case when anew then null else c.subscription_id end
        from (
            select (c.plan_code, c.billing_interval, c.success_url)
                   is distinct from
                   (excluded.plan_code, excluded.billing_interval, excluded.success_url)
                or c.started_at < now() - interval '23 hours'  -- Commet forgets a key after 24
                or exists (
                    select from subscriptions s
                    where s.id = c.subscription_id
                      and s.status not in ('pending_payment', 'draft', 'unknown')
                ) as anew
        ) as intent
    ),
    leased_until = excluded.leased_until
where c.leased_until is null or c.leased_until < now()
returning attempt, subscription_id

-- Gives the right back. Only the attempt that holds it may: a slower one has lost it already.
-- name: end_lease
update checkout_attempt set
    leased_until = null,
    subscription_id = coalesce(%(subscription_id)s, subscription_id)
where user_id = %(user_id)s and attempt = %(attempt)s

-- The next try is a new attempt, whatever it asks for.
-- name: abandon_checkout
update checkout_attempt set
    leased_until = null, started_at = timestamptz 'epoch', subscription_id = null
where user_id = %(user_id)s and attempt = %(attempt)s
