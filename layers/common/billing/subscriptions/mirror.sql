-- The mirror of Commet's subscriptions.

-- name: current
select id, status, plan_id, plan_name, billing_interval, period_start, period_end,
       cancel_at_period_end, trial_ends_at, checkout_url,
       greatest(event_at, confirmed_at) as as_of
from current_subscription
where user_id = %(user_id)s

-- name: in_doubt
select is_user_in_doubt(u) from users u where u.id = %(user_id)s

-- name: doubt
update users set doubted_until = greatest(doubted_until, now() + %(lasting)s::interval)
where id = %(user_id)s

-- Answers are good for what was true when they were asked for.
-- name: note_answer
update users set answered_at = asked_at where id = %(user_id)s and doubted_until > now()

-- name: record_change
select record_change(%(user_id)s, %(at)s, %(change)s, %(now)s)

-- name: confirm
select confirm_answer(%(id)s, %(version)s, %(at)s, %(asked_at)s, %(known)s, %(lag)s)

-- name: keep_unknown
select keep_unknown(%(id)s, %(version)s)

-- What may be asked about now, for one user: at most once in ten seconds, whoever else asks. The
-- user's own row is locked first, as whoever writes several rows of a user does.
-- name: claim_refresh
with one as (
    select id, may_ask_about(users) as doubted
    from users where id = %(user_id)s for no key update
),
asked as (
    update users u set asked_at = now() from one where u.id = one.id and one.doubted
    returning u.id
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
),
claimed as (
    update subscriptions s set checked_at = now(), checks = s.checks + 1
    from due
    where s.id = due.id and not was_just_asked(s)
    returning s.id
)
select id from claimed union all select id from asked

-- The same for anybody, for reconcile.
-- name: claim_refreshes
select claim_refreshes(%(now)s, %(limit)s) as user_id

-- Gives a claim back that the budget had no calls for, as if it had never been taken.
-- name: unclaim_refresh
with doubted as (
    update users set asked_at = null where id = %(user_id)s and doubted_until > now()
)
update subscriptions set checked_at = null, checks = greatest(checks - 1, 0)
where user_id = %(user_id)s and was_just_asked(subscriptions)

-- The same for those that reconcile had no time for.
-- name: unclaim_refreshes
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

-- name: customer_id
select commet_customer_id from users where id = %(user_id)s

-- Of these users, those Commet could be asked about right now.
-- name: askable
select s.user_id
from subscriptions s
where s.user_id = any (%(users)s) and refresh_is_due(s, %(now)s)
union
select u.id
from users u
where u.id = any (%(users)s) and may_ask_about(u)
order by user_id

-- Of these users, those in doubt about whom the newest question to Commet has not been answered or
-- not been asked yet, and how old what we know of them is. That a subscription has ended is Commet's
-- own word: what else is missing of such a row is no reason to think that it was paid. An unpaid
-- checkout is paid within the hour or hardly ever: for so long no answer is good for longer than
-- ten seconds.
-- name: unanswered
select s.user_id, max(greatest(s.event_at, s.confirmed_at)) as as_of
from subscriptions s
where s.user_id = any (%(users)s) and s.status <> 'canceled' and is_in_doubt(s, %(now)s)
  -- A known end that Commet has not taken back for a day holds, whether or not it answers.
  and not coalesce(known_end(
      s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at
  ) <= %(now)s::timestamptz - interval '1 day', false)
  and (s.confirmed_at is null or s.confirmed_at < greatest(s.checked_at, s.refresh_due)
       or refresh_is_due(s, %(now)s)
       or (s.status in ('pending_payment', 'draft', 'unknown')
           and s.created_at > %(now)s::timestamptz - interval '1 hour'
           and s.confirmed_at < now() - interval '10 seconds'))
group by s.user_id
union all
-- A user in doubt, whichever row of theirs is not.
select u.id, greatest(u.created_at, u.answered_at, (
    select max(greatest(s.event_at, s.confirmed_at)) from subscriptions s where s.user_id = u.id
))
from users u
where u.id = any (%(users)s) and is_user_in_doubt(u)
