-- Marks the user's other unpaid checkouts, so that Commet is asked whether they were paid.
-- name: mark_other_pending
with one as (
    select id from users where id = %(user_id)s for no key update
)
update subscriptions set refresh_due = least(refresh_due, now())
where user_id = (select id from one) and id <> %(id)s and status = 'pending_payment'

-- Leases the user's checkout for 30 seconds: only the request with the lease calls Commet about it.
-- Returns no row while another request has the lease. The attempt's number grows if the plan, the
-- interval, the address or the trial differs, if the attempt's checkout was paid or has ended, or
-- if the attempt is 23 hours old.
-- name: lease_checkout
insert into checkout_attempt as c
    (user_id, attempt, plan_code, billing_interval, success_url, skips_trial, started_at,
     leased_until)
values
    (%(user_id)s,
     -- An erased user may have had the same id, and Commet may still know the keys of that user.
     (select 1 + 1000000 * count(*) from erasure
      where given_sha256 = sha256(convert_to(%(user_id)s, 'UTF8'))),
     %(plan_code)s, %(billing_interval)s, %(success_url)s, %(skips_trial)s, now(),
     now() + interval '30 seconds')
on conflict (user_id) do update set
    (attempt, plan_code, billing_interval, success_url, skips_trial, started_at, subscription_id) = (
        select case when anew then c.attempt + 1 else c.attempt end,
               excluded.plan_code, excluded.billing_interval, excluded.success_url,
               excluded.skips_trial,
               case when anew then now() else c.started_at end,
               case when anew then null else c.subscription_id end
        from (
            select (c.plan_code, c.billing_interval, c.success_url, c.skips_trial)
                   is distinct from
                   (excluded.plan_code, excluded.billing_interval, excluded.success_url,
                    excluded.skips_trial)
                or c.started_at < now() - interval '23 hours'  -- Commet keeps a key for 24 hours
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

-- Ends the lease of this attempt, but not of a later one: a slow request may have lost its lease to
-- a newer attempt.
-- name: end_lease
update checkout_attempt set
    leased_until = null,
    subscription_id = coalesce(%(subscription_id)s, subscription_id)
where user_id = %(user_id)s and attempt = %(attempt)s

-- Ends the lease. The next request gets a new attempt, even if it asks for the same checkout.
-- name: abandon_checkout
update checkout_attempt set
    leased_until = null, started_at = timestamptz 'epoch', subscription_id = null
where user_id = %(user_id)s and attempt = %(attempt)s
