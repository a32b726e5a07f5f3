-- Sending accepted usage to Commet. Leases and back-off run on the database's clock, so that no two
-- machines disagree; what falls into which period is decided by the clock handed in.

-- Turns what totals have grown by since the last claim into deliveries: difference, number and body
-- in one statement, so nothing is ever claimed twice or lost between two. Rows another claim is
-- busy with are skipped. A timestamp lies inside the period its usage was booked in, and before
-- the one that replaced it (a plan change can end a period early).
-- name: claim
with due as (
    select t.period, t.feature, t.claimed, t.seq + 1 as seq, p.user_id, p.closed_at,
           p.starts_at, p.ends_at,
           -- What a double cannot carry waits for the next delivery.
           case when fits_double(t.total - t.claimed) then t.total - t.claimed
                else trunc(t.total - t.claimed) end as quantity
    from usage_total t
    join usage_period p on p.id = t.period
    where not t.settled and t.total > t.claimed
      and (
          t.claimed_at is null
          or t.claimed_at <= now() - %(interval)s::interval
          or p.closed_at is not null
          or p.ends_at <= %(now)s::timestamptz + %(closing)s::interval
      )
    limit %(limit)s
    for update of t skip locked
),
claimed as (
    update usage_total t set
        claimed = due.claimed + due.quantity, seq = due.seq, claimed_at = now()
    from due
    where t.period = due.period and t.feature = due.feature
),
named as (
    select due.*,
           concat_ws(':', period, user_id, feature, seq) as name,
           greatest(starts_at, least(
               %(now)s::timestamptz,
               ends_at - interval '1 millisecond',
               case when closed_at is not null then (
                   select min(n.starts_at) - interval '1 millisecond' from usage_period n
                   where n.user_id = due.user_id and n.id > due.period
               ) end
           )) as at
    from due
),
inserted as (
    insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body)
    select period, feature, seq, user_id, quantity, e.event_id,
           json_build_object(
               'featureCode', feature,
               'customerId', user_id,
               'value', trim_scale(quantity),
               'eventId', e.event_id,
               'timestamp', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
           )::text
    from named
    cross join lateral (
        -- Commet takes at most 200 characters, and this travels in a header too.
        select case when length(name) <= 180 then name
                    else concat_ws(':', period, md5(concat_ws(':', user_id, feature)), seq)
               end as event_id
    ) as e
    returning 1
)
select count(*) as claimed from inserted

-- Closed periods of which everything is claimed are not looked at again.
-- name: settle
update usage_total t set settled = true
from (
    select n.period, n.feature
    from usage_total n
    join usage_period p on p.id = n.period
    where not n.settled and n.total = n.claimed and p.closed_at is not null
    for update of n skip locked
) as done
where t.period = done.period and t.feature = done.feature

-- The delivery that has waited longest, for this long ours alone. Whoever dies with it leaves it
-- to be sent again, unchanged. Commet forgets an idempotency key after a day: what was tried and
-- never confirmed by then is no longer sent, because it might count twice.
-- name: lease
update usage_delivery d set
    due_at = now() + %(lease)s::interval,
    attempts = d.attempts + case when next.expired then 0 else 1 end,
    uncertain_since = coalesce(d.uncertain_since, now()),
    state = case when next.expired then 'parked' else d.state end,
    reason = case when next.expired then 'unconfirmed' else d.reason end
from (
    select n.period, n.feature, n.seq, n.uncertain_since,
           coalesce(
               n.uncertain_since + %(key_lifetime)s::interval <= now() + %(lease)s::interval, false
           ) as expired
    from usage_delivery n
    where n.state = 'pending' and n.due_at <= now()
    order by n.due_at
    limit 1
    for update skip locked
) as next
where d.period = next.period and d.feature = next.feature and d.seq = next.seq
returning d.period, d.feature, d.seq, d.event_id, d.generation, d.body, d.attempts,
          next.uncertain_since as uncertain_before, next.expired

-- Commet has it. True too of one that was parked while the answer was on its way.
-- name: mark_sent
update usage_delivery set
    state = 'sent', sent_at = now(), remote_id = %(remote_id)s, reason = null
where period = %(period)s and feature = %(feature)s and seq = %(seq)s and state <> 'sent'

-- Later. Where this attempt certainly had no effect, it does not count towards the day.
-- name: postpone
update usage_delivery set
    due_at = now() + make_interval(secs => %(seconds)s),
    uncertain_since = case when %(no_effect)s then %(uncertain_before)s::timestamptz
                           else uncertain_since end
where period = %(period)s and feature = %(feature)s and seq = %(seq)s and state = 'pending'

-- name: park
update usage_delivery set state = 'parked', reason = %(reason)s
where period = %(period)s and feature = %(feature)s and seq = %(seq)s and state = 'pending'
