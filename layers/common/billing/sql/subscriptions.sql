-- The mirror of Commet's subscriptions.

-- name: current
select id, status, plan_id, plan_name, billing_interval, period_start, period_end,
       cancel_at_period_end, trial_ends_at, checkout_url,
       greatest(event_at, confirmed_at) as as_of
from current_subscription
where user_id = %(user_id)s

-- name: record_news
select record_news(%(user_id)s, %(at)s, %(news)s, %(now)s)

-- name: confirm
select confirm_answer(%(id)s, %(version)s, %(at)s, %(asked_at)s, %(known)s, %(lag)s)

-- name: keep_unknown
select keep_unknown(%(id)s, %(version)s)

-- What may be asked about now, for one user: at most once in ten seconds, whoever else asks. The
-- user's own row is locked first, as whoever writes several rows of a user does.
-- name: claim_refresh
with one as (
    select id from users where id = %(user_id)s for no key update
),
due as (
    select s.id from subscriptions s
    where s.user_id = (select id from one) and refresh_is_due(s, %(now)s)
      and not exists (
          select from subscriptions o
          where o.user_id = s.user_id and was_just_asked(o)
      )
    order by s.id
    for update
)
update subscriptions s set checked_at = now(), checks = s.checks + 1
from due
where s.id = due.id and not was_just_asked(s)
returning s.id

-- The same for anybody, for reconcile.
-- name: claim_refreshes
select claim_refreshes(%(now)s, %(limit)s) as user_id

-- Gives a claim back that the budget had no calls for, as if it had never been taken.
-- name: release_refresh
update subscriptions set checked_at = null, checks = greatest(checks - 1, 0)
where user_id = %(user_id)s and was_just_asked(subscriptions)

-- The same for those that reconcile had no time for.
-- name: release_refreshes
update subscriptions set
    checked_at = null, background_checks = greatest(background_checks - 1, 0),
    refresh_due = case when refresh_due is not null then now() end, recheck_at = now()
where user_id = any (%(users)s) and checked_at is not null
  and (status <> 'canceled' or refresh_due is not null)

-- The rows a refresh must look at: believed live or pending, or marked. Those that matter most
-- come first, and of the others those that were not confirmed for longest, so that where a refresh
-- asks about some of them only, the rest has its turn later.
-- name: refreshable
select id, version, status, event_at, period_end
from subscriptions
where user_id = %(user_id)s
  and (status <> 'canceled' or refresh_due is not null)
order by status in ('active', 'trialing', 'past_due', 'paused') desc, refresh_due is null,
         confirmed_at nulls first, created_at desc, id
limit %(limit)s

-- Whatever becomes of other unpaid checkouts of this user is Commet's to say.
-- name: mark_other_pending
with one as (
    select id from users where id = %(user_id)s for no key update
)
update subscriptions set refresh_due = least(refresh_due, now())
where user_id = (select id from one) and id <> %(id)s and status = 'pending_payment'

-- name: customer_id
select commet_customer_id from users where id = %(user_id)s

-- name: link_customer
update users set commet_customer_id = %(customer_id)s
where id = %(user_id)s and commet_customer_id is distinct from %(customer_id)s

-- name: cached_plans
select catalogue, as_of from plans_cache

-- A row where this caller, and nobody else within ten seconds, may ask Commet for the plans.
-- name: claim_plans
update plans_cache set tried_at = now()
where tried_at is null or tried_at < now() - interval '10 seconds'
returning id

-- name: cache_plans
insert into plans_cache as c (id, catalogue, as_of)
values (1, %(catalogue)s, %(as_of)s)
on conflict (id) do update set catalogue = excluded.catalogue, as_of = excluded.as_of
where excluded.as_of >= c.as_of

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
-- name: release_checkout
update checkout_attempt set
    leased_until = null,
    subscription_id = coalesce(%(subscription_id)s, subscription_id)
where user_id = %(user_id)s and attempt = %(attempt)s

-- The next try is a new attempt, whatever it asks for.
-- name: abandon_checkout
update checkout_attempt set
    leased_until = null, started_at = timestamptz 'epoch', subscription_id = null
where user_id = %(user_id)s and attempt = %(attempt)s

-- Of these users, those Commet could be asked about right now.
-- name: askable
select distinct s.user_id
from subscriptions s
where s.user_id = any (%(users)s) and refresh_is_due(s, %(now)s)
order by s.user_id

-- Of these users, those in doubt about whom the newest question to Commet has not been answered or
-- not been asked yet, and how old what we know of them is. That a subscription has ended is Commet's
-- own word: what else is missing of such a row is no reason to think that it was paid. An unpaid
-- checkout is paid within the hour or hardly ever: for so long no answer is good for longer than
-- ten seconds.
-- name: unanswered
select s.user_id, max(greatest(s.event_at, s.confirmed_at)) as as_of
from subscriptions s
where s.user_id = any (%(users)s) and s.status <> 'canceled' and is_in_doubt(s, %(now)s)
  and (s.confirmed_at is null or s.confirmed_at < greatest(s.checked_at, s.refresh_due)
       or refresh_is_due(s, %(now)s)
       or (s.status in ('pending_payment', 'draft', 'unknown')
           and s.created_at > %(now)s::timestamptz - interval '1 hour'
           and s.confirmed_at < now() - interval '10 seconds'))
group by s.user_id
