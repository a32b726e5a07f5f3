-- Steps of a run of deliver_usage other than sending.

-- Returns totals to replace because corrections have lowered them below the claimed quantity: once
-- they are quiet, and at the latest just before their period ends, because afterwards Commet takes
-- no replacement. `is_quiet` and `can_be_replaced` read other tables, so they are called last, for
-- as few totals as possible (`offset 0` keeps Postgres from calling them earlier).
-- name: to_be_replaced
select s.period, s.feature
from (
    select t.period, t.feature, t.total,
           p.ends_at <= %(now)s::timestamptz + %(closing)s::interval as is_closing
    from usage_total t
    join usage_period p on p.id = t.period
    where not t.fully_claimed and t.total < t.claimed and p.closed_at is null
      and p.ends_at > %(now)s::timestamptz + %(margin)s::interval
      and t.claims_paused_until is distinct from 'infinity'
      and (t.replace_after is null or t.replace_after <= now()
           or p.ends_at <= %(now)s::timestamptz + %(closing)s::interval)
    order by p.ends_at
    offset 0
) as s
where (
    s.is_closing or is_quiet(s.period, s.feature, %(now)s, %(quiet)s::interval, %(closing)s)
)
  and can_be_replaced(s.period, s.feature, s.total)
limit %(limit)s

-- name: begin_replacement
select begin_replacement(%(period)s, %(feature)s, %(now)s, %(quiet)s, %(margin)s, 'correction')

-- Resumes claims of totals whose replacement can no longer be sent: their period has ended, and the
-- replacement was given up or parked.
-- name: resume_claims
with over as materialized (
    select n.period, n.feature
    from usage_total n
    join usage_period p on p.id = n.period
    where n.claims_paused_until = 'infinity' and least(p.closed_at, p.ends_at) <= %(now)s
      and not exists (
          select from usage_delivery d
          where d.period = n.period and d.feature = n.feature and d.kind = 'replacement'
            and d.state = 'pending'
      )
    limit %(limit)s
    for update of n skip locked
)
update usage_total t set claims_paused_until = null
from over
where t.period = over.period and t.feature = over.feature

-- name: credit_closed_periods
select credit_closed_periods(%(limit)s)

-- name: mark_lost
select mark_lost(%(limit)s)

-- Returns refused deliveries of billed periods whose subscription is active again, because it was
-- reactivated or resumed. A refusal marks the subscription (`doubt_subscriptions`). So a
-- subscription without a mark was confirmed by Commet since. Each delivery is returned three times
-- at most, and after that a person decides.
-- name: active_again
select d.user_id, d.event_id
from usage_delivery d
join usage_period p on p.id = d.period
join subscriptions s on s.id = p.subscription_id and s.user_id = d.user_id
where d.state = 'parked' and d.kind = 'event' and d.reason = 'no_active_subscription'
  and d.resolved_at is null and d.generation <= 3 and not is_unbilled(p)
  and s.status in ('active', 'past_due') and s.refresh_due is null and s.unknown_at is null
  and not exists (
      select from lost_delivery l
      where l.period = d.period and l.feature = d.feature and l.seq = d.seq
  )
limit %(limit)s

-- Parks deliveries that were first tried a day ago and never confirmed. Commet forgets an
-- idempotency key after a day, so sending such a delivery again might count it twice. Comparing
-- totals decides instead. A lease always ends before the key does, so no run is sending such a
-- delivery now. So this statement need not wait for a lease, nor for a pause that Commet asked for.
-- name: park_expired
with expired as materialized (
    select n.period, n.feature, n.seq
    from usage_delivery n
    where n.state = 'pending' and n.uncertain_since <= now() - %(key_lifetime)s::interval
    order by n.uncertain_since
    limit %(limit)s
    for update of n skip locked
)
update usage_delivery d set state = 'parked', reason = 'unconfirmed', compare_at = now()
from expired
where d.period = expired.period and d.feature = expired.feature and d.seq = expired.seq
returning d.user_id, d.feature, d.event_id, d.kind, d.reason

-- Returns pending replacements whose period is over, or ends within half of `margin`.
-- name: ended_replacements
select d.period, d.feature, d.seq, d.user_id, d.event_id
from usage_total t
join usage_period p on p.id = t.period
join usage_delivery d on d.period = t.period and d.feature = t.feature
where t.claims_paused_until = 'infinity'
  and least(p.closed_at, p.ends_at) <= %(now)s::timestamptz + %(margin)s::interval / 2
  and d.kind = 'replacement' and d.state = 'pending' and d.due_at <= now()
limit %(limit)s

-- Gives up one ended replacement. Returns no row if another run has given it up.
-- name: end_replacement
select %(user_id)s as user_id, %(feature)s as feature, %(event_id)s as event_id,
       'replacement' as kind, ended.reason
from end_replacement(%(period)s, %(feature)s, %(seq)s) as ended (reason)
where ended.reason is not null
