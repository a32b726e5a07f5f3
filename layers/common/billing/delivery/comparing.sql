-- Comparing Commet's totals with what we sent.

-- What we sent for a user's open period: one row per feature. If nothing was used, one row without
-- a feature. If no period is open, no row.
--   sent       quantity of the deliveries that Commet booked in the period
--   fresh      the part of `sent` that was sent within `quiet`, so Commet may not show it yet
--   in_flight  number of deliveries that are pending, or were sent within `quiet`
--   maybe      quantity of the pending deliveries that were tried, so Commet may have them
--   in_place   false while the total is being replaced
-- name: sent_totals
select p.id as period, p.starts_at, t.feature,
       coalesce(d.sent, 0) + coalesce(m.sent, 0) as sent,
       coalesce(d.fresh, 0) + coalesce(m.fresh, 0) as fresh,
       coalesce(d.newest, 0) + coalesce(m.newest, 0) + coalesce(f.pending, 0) as in_flight,
       coalesce(f.maybe, 0) as maybe,
       coalesce(f.in_place, true) as in_place
from usage_period p
left join usage_total t on t.period = p.id
left join lateral (
    select sum(n.quantity) as sent,
           sum(n.quantity) filter (where n.sent_at > now() - %(quiet)s::interval) as fresh,
           count(*) filter (where n.sent_at > now() - %(quiet)s::interval) as newest
    from usage_delivery n
    where n.period = p.id and n.feature = t.feature and n.state = 'sent'
      and n.billed_period = p.id
) as d on true
left join lateral (
    select sum(n.quantity) as sent,
           sum(n.quantity) filter (where n.sent_at > now() - %(quiet)s::interval) as fresh,
           count(*) filter (where n.sent_at > now() - %(quiet)s::interval) as newest
    from usage_delivery n
    where n.billed_period = p.id and n.feature = t.feature and n.period <> n.billed_period
) as m on true
left join lateral (
    select count(*) as pending, sum(n.quantity) filter (where n.attempts > 0) as maybe,
           bool_and(n.kind <> 'replacement') as in_place
    from usage_delivery n
    where n.user_id = p.user_id and n.feature = t.feature and n.state = 'pending'
) as f on true
where p.user_id = %(user_id)s and p.closed_at is null

-- Returns features with a pending delivery, of any period.
-- name: pending
select distinct feature from usage_delivery where user_id = %(user_id)s and state = 'pending'

-- Corrects a user's deliveries and `carried` before totals are compared.
-- First: an answer may be recorded at the moment in which a new period is opened. The delivery was
-- then placed in the period before, although Commet may have booked it in the new one. Such a
-- delivery is put in doubt.
-- Second: `carried` of the open period is set to the sum of the deliveries that Commet booked in
-- the open period and that another period counted.
-- name: make_ready
with open_one as (
    select p.id, p.user_id, p.starts_at from usage_period p
    where p.user_id = %(user_id)s and p.closed_at is null
),
missed as (
    update usage_delivery d set billed_period = null, compare_at = now(), doubted_at = now()
    from open_one o
    join usage_period p on p.user_id = o.user_id
        and p.closed_at > o.starts_at - interval '1 minute'
    where d.period = p.id and d.billed_period = p.id and d.doubted_at is null
      and d.state = 'sent' and d.kind = 'event' and d.compare_at is null
      and d.answered_at > o.starts_at - interval '1 minute'
)
update usage_total t set carried = m.quantity
from open_one o
cross join lateral (
    select n.feature, sum(n.quantity) as quantity
    from usage_delivery n
    where n.billed_period = o.id and n.period <> n.billed_period and n.state = 'sent'
    group by n.feature
) as m
where t.period = o.id and t.feature = m.feature and t.carried <> m.quantity

-- Returns a user's deliveries in doubt, in the order in which Commet answered them. `fresh`: sent
-- within `quiet`, so Commet's total may not show it yet. `overdue`: in doubt for `patience` or
-- longer.
-- name: in_doubt
select d.period, least(p.ends_at, p.closed_at) as ends_at, d.feature, d.seq, d.kind, d.quantity,
       d.state, d.uncertain_since as tried_at, d.answered_at, d.event_id,
       coalesce(d.sent_at > now() - %(quiet)s::interval, false) as fresh,
       coalesce(d.doubted_at, d.sent_at, d.uncertain_since + %(key_lifetime)s::interval)
           <= now() - %(patience)s::interval as overdue
from usage_delivery d
join usage_period p on p.id = d.period
where d.user_id = %(user_id)s and d.compare_at is not null
order by d.answered_at, d.period, d.seq

-- name: users_in_doubt
select user_id from usage_delivery
where compare_at <= now()
group by user_id
order by min(compare_at)
limit %(limit)s

-- Places a delivery in the period in which Commet booked it.
-- name: place
select place_delivery(%(period)s, %(feature)s, %(seq)s, %(billed_period)s)

-- Makes a delivery that Commet does not have pending again. It gets a new key, because the 24 hours
-- of the old key are over.
-- name: resend
update usage_delivery set
    state = 'pending', generation = generation + 1, reason = null, due_at = now(), attempts = 0,
    uncertain_since = null, compare_at = null
where period = %(period)s and feature = %(feature)s and seq = %(seq)s
  and state = 'parked' and compare_at is not null

-- Resumes claims of a total whose replacement Commet has made.
-- name: resume_claims
update usage_total set claims_paused_until = null
where period = %(period)s and feature = %(feature)s and %(seq)s > 0

-- Ends the comparing of a delivery that totals cannot decide. A sent delivery remains sent and is
-- never placed. An unconfirmed one remains parked, and a person decides.
-- name: give_up
update usage_delivery set compare_at = null
where period = %(period)s and feature = %(feature)s and seq = %(seq)s

-- name: ask_later
update usage_delivery set compare_at = now() + %(after)s::interval
where user_id = %(user_id)s and compare_at is not null

-- Records drift. Returns true if the total had no drift before.
-- name: note_drift
insert into usage_drift as f
    (period, feature, user_id, ours, theirs, found_at, checked_at)
values (%(period)s, %(feature)s, %(user_id)s, %(ours)s, %(theirs)s, %(now)s, %(now)s)
on conflict (period, feature) do update set
    ours = excluded.ours, theirs = excluded.theirs, checked_at = excluded.checked_at,
    -- If drift remains after a repair, an operator has to ask for a new repair.
    repair = case when f.repair = 'sent' then null else f.repair end
returning xmax = 0 as is_new

-- Has Commet asked about the user's subscription in the next run. The drift may come from a plan
-- change of which no webhook was received.
-- name: mark_subscription
update subscriptions set refresh_due = least(refresh_due, now())
where user_id = %(user_id)s and status in ('active', 'trialing', 'past_due', 'paused')

-- name: forget_drift
delete from usage_drift
where period = %(period)s and feature = %(feature)s
returning ours, theirs

-- name: ask_repair
update usage_drift f set repair = 'asked', reason = null
from usage_period p
where p.id = f.period and p.closed_at is null
  and f.user_id = coalesce(%(user_id)s, f.user_id) and f.repair is distinct from 'sent'
returning f.user_id, f.feature

-- name: to_be_repaired
select period, feature from usage_drift where repair = 'asked' order by found_at limit %(limit)s

-- Returns the drift if its repair has begun, or was refused because a delivery is not placed.
-- name: begin_repair
with tried as materialized (
    select begin_replacement(
        %(period)s, %(feature)s, %(now)s, %(quiet)s, %(margin)s, 'drift'
    ) as answer
)
update usage_drift f set
    repair = case when tried.answer = 'begun' then 'sent' else 'refused' end,
    reason = nullif(tried.answer, 'begun')
from tried
where f.period = %(period)s and f.feature = %(feature)s and tried.answer in ('begun', 'in_doubt')
returning f.user_id, f.feature, f.repair, f.reason

-- name: close_drift
select close_drift(%(limit)s)

-- Returns users with usage in an open period, in the order of their ids.
-- name: users_after
select p.user_id
from usage_period p
where p.closed_at is null and p.user_id > %(after)s
  and exists (
      select from usage_total t
      where t.period = p.id and (not t.fully_claimed or t.carried > 0)
  )
order by p.user_id
limit %(limit)s
