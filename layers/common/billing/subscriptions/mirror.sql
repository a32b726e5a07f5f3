-- The mirror of Commet's subscriptions.

-- name: current
select id, status, plan_id, plan_name, billing_interval, period_start, period_end,
       cancel_at_period_end, scheduled_change, trial_ends_at, checkout_url, unknown_at is null as is_known,
       greatest(changed_at, confirmed_at) as as_of
from current_subscription
where user_id = %(user_id)s

-- name: free_until
select free_until from users where id = %(user_id)s

-- name: had_trial
select exists (select from subscriptions where user_id = %(user_id)s and had_trial)
    or exists (select from users where id = %(user_id)s and inherits_trial)

-- name: in_doubt
select is_user_in_doubt(u) from users u where u.id = %(user_id)s

-- name: doubt
update users set
    doubted_until = greatest(doubted_until, now() + %(lasting)s::interval),
    doubted_at = case when %(leaves)s then now() else doubted_at end
where id = %(user_id)s

-- answered_at is the time of our question, and not of the answer, because Commet's state may have
-- changed in between.
-- name: note_answer
update users set answered_at = asked_at where id = %(user_id)s and doubted_until > now()

-- name: record_change
select record_change(%(user_id)s, %(at)s, %(change)s, %(now)s)

-- name: confirm
select confirm_answer(%(id)s, %(version)s, %(at)s, %(asked_at)s, %(known)s, %(lag)s)

-- name: keep_unknown
select keep_unknown(%(id)s, %(version)s)

-- Takes the right to ask Commet about one user. Returns rows if a subscription is due or the user
-- is in doubt, and nobody has asked about the user in the last ten seconds. The user's own row is
-- locked first, as in every statement that writes several rows of a user.
-- name: lease_refresh
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
),
leased as (
    update subscriptions s set checked_at = now(), checks = s.checks + 1
    from due
    where s.id = due.id and not was_just_asked(s)
    returning s.id
)
select id from leased union all select id from asked

-- Leases users whose rows are due, for reconcile.
-- name: lease_refreshes
select lease_refreshes(%(now)s, %(limit)s) as user_id

-- Undoes lease_refresh if the call budget had no calls left.
-- name: unlease_refresh
with doubted as (
    update users set asked_at = null where id = %(user_id)s and doubted_until > now()
)
update subscriptions set checked_at = null, checks = greatest(checks - 1, 0)
where user_id = %(user_id)s and was_just_asked(subscriptions)

-- Undoes lease_refreshes for the users for whom reconcile had no time or no calls left.
-- name: unlease_refreshes
update subscriptions set
    checked_at = null, background_checks = greatest(background_checks - 1, 0),
    refresh_due = case when refresh_due is not null then now() end, recheck_at = now()
where user_id = any (%(users)s) and checked_at is not null
  and (status <> 'canceled' or refresh_due is not null)

-- Returns the rows about which a refresh asks: live, pending or marked rows. A refresh asks only
-- about the first ones. So live rows come first, then marked ones, then those that were confirmed
-- longest ago. A later refresh asks about the others.
-- name: refreshable
select id, version, status, changed_at, period_end
from subscriptions
where user_id = %(user_id)s
  and (status <> 'canceled' or refresh_due is not null)
order by status in ('active', 'trialing', 'past_due', 'paused') desc, refresh_due is null,
         confirmed_at nulls first, created_at desc, id
limit %(limit)s

-- Returns those of the given users about whom Commet may be asked now.
-- name: askable
select s.user_id
from subscriptions s
where s.user_id = any (%(users)s) and refresh_is_due(s, %(now)s)
union
select u.id
from users u
where u.id = any (%(users)s) and may_ask_about(u)
order by user_id

-- Returns those of the given users about whom something is in doubt and Commet was not asked yet or
-- has not answered since, each with the time of our newest information. A user may have several
-- rows. Canceled subscriptions do not count, because Commet itself said that they have ended. An
-- answer about an unpaid checkout counts as valid for ten seconds during the first hour, because
-- most checkouts are paid within the hour or never.
-- name: unanswered
select s.user_id, max(greatest(s.changed_at, s.confirmed_at)) as as_of
from subscriptions s
where s.user_id = any (%(users)s) and s.status <> 'canceled' and is_in_doubt(s, %(now)s)
  -- A known end that passed a day ago counts as certain, even if Commet does not answer.
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
-- A user in doubt, even if no row of the user is in doubt.
select u.id, greatest(u.created_at, u.answered_at, (
    select max(greatest(s.changed_at, s.confirmed_at)) from subscriptions s where s.user_id = u.id
))
from users u
where u.id = any (%(users)s) and is_user_in_doubt(u)

-- name: boolean_features
select feature, name, allowed
from entitlements
where user_id = %(user_id)s and type = 'boolean'
order by feature
