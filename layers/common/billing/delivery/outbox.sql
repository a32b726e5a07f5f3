-- Deliveries: making them from growth, leasing them, and recording their results.
--
-- Leases and pauses use the database's clock, which is the same for all machines. The clock that
-- the caller passes in decides to which period a moment belongs.
--
-- A statement that chooses at most `limit` rows chooses them in a materialized step of its own. In
-- a plain join, Postgres may run the choice once per row of the other side, and then chooses more
-- rows each time.

-- Claims growth: turns the growth of totals since the last claim into deliveries. One statement
-- writes `claimed`, number and body, so no growth is claimed twice or lost. Totals that another
-- claim has locked are skipped. All growth of a user and feature is skipped while one of their
-- totals is being replaced, because Commet would book it in that total, whichever period counted
-- it. The body's `timestamp` lies inside the period that counted the usage, and before the start of
-- the next one, because a plan change can end a period early.
-- Claims up to `limit` totals that are due, or all growth of `users`, due or not. `values` has the
-- worth of the overage of each of these users.
-- name: claim
with on_time as (
    select t.period, t.feature, t.claimed, t.total - t.withheld as total, t.seq, p.user_id,
           p.closed_at, p.starts_at, p.ends_at
    from usage_total t
    join usage_period p on p.id = t.period
    where has_growth(t) and not is_trial_over(p, %(now)s)
      and not exists (
          select from being_replaced r where r.user_id = p.user_id and r.feature = t.feature
      )
      and is_due(t, p, %(now)s, %(interval)s, %(closing)s)
    limit %(limit)s
    for update of t skip locked
),
early as (
    select t.period, t.feature, t.claimed, t.total - t.withheld as total, t.seq, p.user_id,
           p.closed_at, p.starts_at, p.ends_at, t.claimed_at + %(interval)s::interval as early_until, u.value as early_value
    from unnest(%(users)s::text[], %(values)s::numeric[]) as u (user_id, value)
    join usage_period p on p.user_id = u.user_id
    join usage_total t on t.period = p.id
    where has_growth(t) and not is_trial_over(p, %(now)s)
      and not exists (
          select from being_replaced r where r.user_id = p.user_id and r.feature = t.feature
      )
    for update of t skip locked
),
due as materialized (
    select d.period, d.feature, d.claimed, d.seq + 1 as seq, d.user_id, d.closed_at, d.starts_at,
           d.ends_at, d.early_until, d.early_value,
           -- A fraction that a double cannot represent remains growth, for the next delivery.
           case when fits_double(d.total - d.claimed) then d.total - d.claimed
                else trunc(d.total - d.claimed) end as quantity
    from (
        select period, feature, claimed, total, seq, user_id, closed_at, starts_at, ends_at,
               null::timestamptz as early_until, null::numeric as early_value
        from on_time
        union all
        select period, feature, claimed, total, seq, user_id, closed_at, starts_at, ends_at,
               early_until, early_value
        from early
    ) as d
),
claimed as (
    update usage_total t set
        claimed = due.claimed + due.quantity, seq = due.seq, claimed_at = now()
    from due
    where t.period = due.period and t.feature = due.feature
),
named as materialized (
    select period, user_id, feature, seq, quantity, early_until, early_value,
           delivery_name(period, user_id, feature, seq) as event_id,
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
    insert into usage_delivery (
        period, feature, seq, user_id, quantity, event_id, early_until, early_value, body
    )
    select period, feature, seq, user_id, quantity, event_id, early_until, early_value,
           json_build_object(
               'featureCode', feature,
               'customerId', user_id,
               'value', trim_scale(quantity),
               'eventId', event_id,
               'timestamp', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
           )::text
    from named
    returning 1
)
select count(*) as claimed from inserted

-- Marks totals of closed periods with nothing left to claim, so that claims skip them.
-- name: mark_fully_claimed
with done as materialized (
    select n.period, n.feature
    from usage_total n
    join usage_period p on p.id = n.period
    where not n.fully_claimed and n.total between n.claimed and n.claimed + n.withheld
      and p.closed_at is not null
    limit %(limit)s
    for update of n skip locked
)
update usage_total t set fully_claimed = true
from done
where t.period = done.period and t.feature = done.feature
returning 1

-- Takes the users with the most valuable overage from overage_due.
-- name: take_overage_due
with next as materialized (
    select user_id from overage_due
    order by value desc
    limit %(limit)s
    for update skip locked
)
delete from overage_due d using next where d.user_id = next.user_id
returning d.user_id, d.value

-- Records that any overage of a user is due for `lasting`, because the user may leave at Commet.
-- name: expect_departure
update users set overage_due_until = now() + %(lasting)s::interval where id = %(user_id)s

-- name: any_early
select exists (select from usage_delivery where state = 'pending' and early_until > now())

-- Leases the deliveries that have been due longest. The rest of `limit` goes to deliveries whose
-- interval is not over, at most `early_limit`, the most valuable first. If `user_id` is not null,
-- only deliveries of that user are leased.
-- If a run dies, its lease expires and the next run sends the deliveries, unchanged. A delivery is
-- not leased if Commet may forget its key before the lease ends; `park_expired` parks it soon.
-- name: lease
with on_time as materialized (
    select n.period, n.feature, n.seq, n.uncertain_since
    from usage_delivery n
    where %(user_id)s::text is null and may_be_leased(n, %(lease)s, %(key_lifetime)s)
      and (n.early_until is null or n.early_until <= now())
    order by n.due_at
    limit %(limit)s
    for update of n skip locked
),
early as materialized (
    select n.period, n.feature, n.seq, n.uncertain_since
    from usage_delivery n
    where %(user_id)s::text is null and may_be_leased(n, %(lease)s, %(key_lifetime)s)
      and n.early_until > now()
    order by n.early_value desc nulls last, n.due_at
    limit greatest(0, least(%(early_limit)s, %(limit)s - (select count(*) from on_time)))
    for update of n skip locked
),
of_user as materialized (
    select n.period, n.feature, n.seq, n.uncertain_since
    from usage_delivery n
    where n.user_id = %(user_id)s and may_be_leased(n, %(lease)s, %(key_lifetime)s)
    limit %(limit)s
    for update of n skip locked
),
next as materialized (
    select l.period, l.feature, l.seq, l.uncertain_since, l.is_early, p.starts_at,
           least(p.ends_at, p.closed_at) as ends_at  -- a plan change closes a period early
    from (
        select period, feature, seq, uncertain_since, false as is_early from on_time
        union all
        select period, feature, seq, uncertain_since, true from early
        union all
        select period, feature, seq, uncertain_since, true from of_user
    ) as l
    join usage_period p on p.id = l.period
)
update usage_delivery d set
    due_at = now() + %(lease)s::interval,
    waits = false,
    attempts = d.attempts + 1,
    uncertain_since = coalesce(d.uncertain_since, now())
from next
where d.period = next.period and d.feature = next.feature and d.seq = next.seq
returning d.period, d.feature, d.seq, d.user_id, d.kind, d.event_id, d.generation, d.body,
          d.attempts, next.starts_at, next.ends_at, next.uncertain_since as uncertain_before, next.is_early

-- Marks deliveries that Commet took as sent, including those that were parked before the answer
-- came. A delivery is placed in its own period if that is still open and ends more than `margin`
-- after the answer. Otherwise Commet may have booked it in the next period, and comparing totals
-- decides. A replacement is always placed, and claims of its total are resumed.
-- name: mark_sent
with answered as (
    select a.period, a.feature, a.seq, a.remote_id,
           p.closed_at is null and p.ends_at > %(answered_at)s::timestamptz + %(margin)s::interval
               as is_inside
    from jsonb_to_recordset(%(rows)s) as a (
        period bigint, feature text collate "C", seq integer, remote_id text
    )
    -- The limit changes no result. It makes the look-up one probe of an index per row.
    cross join lateral (
        select n.closed_at, n.ends_at from usage_period n where n.id = a.period limit 1
    ) as p
),
sent as (
    update usage_delivery d set
        state = 'sent', sent_at = now(), remote_id = a.remote_id, reason = null,
        answered_at = %(answered_at)s, resolved_at = null,
        billed_period = case when a.is_inside or d.kind = 'replacement' then d.period end,
        compare_at = case when not a.is_inside and d.kind <> 'replacement' then now() end
    from answered a
    where d.period = a.period and d.feature = a.feature and d.seq = a.seq and d.state <> 'sent'
    returning d.period, d.feature, d.kind
)
update usage_total t set claims_paused_until = null
from sent
where sent.kind = 'replacement' and t.period = sent.period and t.feature = sent.feature

-- Makes deliveries due again in `seconds`. If an attempt certainly had no effect, it does not count
-- as the first attempt, a day after which a delivery is parked as unconfirmed.
-- name: postpone
update usage_delivery d set
    due_at = now() + make_interval(secs => a.seconds),
    waits = true,
    uncertain_since = case when a.no_effect then a.uncertain_before else d.uncertain_since end
from jsonb_to_recordset(%(rows)s) as a (
    period bigint, feature text collate "C", seq integer, generation integer,
    seconds double precision, no_effect boolean, uncertain_before timestamptz
)
where d.period = a.period and d.feature = a.feature and d.seq = a.seq
  and d.generation = a.generation and d.state = 'pending'

-- name: park
update usage_delivery d set state = 'parked', reason = a.reason, uncertain_since = null
from jsonb_to_recordset(%(rows)s) as a (
    period bigint, feature text collate "C", seq integer, generation integer, reason text
)
where d.period = a.period and d.feature = a.feature and d.seq = a.seq
  and d.generation = a.generation and d.state = 'pending'

-- Marks the current subscriptions of users whose deliveries Commet refused, or about whose periods
-- Commet disagrees, so that the next run asks Commet about them. Raises the version, because the
-- answer to a question from before the refusal does not count.
-- name: doubt_subscriptions
with refused as materialized (
    select u.id from users u where u.id = any (%(users)s) order by u.id for no key update
)
update subscriptions s set refresh_due = least(s.refresh_due, now()), version = s.version + 1
from refused
where s.user_id = refused.id and s.status in ('active', 'trialing', 'past_due', 'paused')

-- name: undo_replacement
select undo_replacement(%(period)s, %(feature)s, %(seq)s, %(reason)s)

-- name: redrive
select redrive_deliveries(%(user_id)s, %(event_id)s, %(reason)s, %(limit)s)

-- name: resolve
select resolve_delivery(%(user_id)s, %(event_id)s, %(note)s, %(delivered)s)

-- Returns the state of the outbox, for metrics. A delivery without an answer gets a new due time
-- after each attempt, so its age counts from the first attempt. `parked_deliveries` leaves out
-- deliveries in doubt that comparing totals may still decide, and includes them after `undecided`.
-- name: gauges
select
    coalesce(extract(epoch from now() - least(
        (select min(due_at) from usage_delivery where state = 'pending' and due_at <= now()),
        (select min(uncertain_since) from usage_delivery
         where state = 'pending' and uncertain_since is not null)
    )), 0)::float as outbox_age_seconds,
    (select count(*) from usage_delivery
     where state = 'parked' and resolved_at is null
       and (compare_at is null or uncertain_since <= now() - %(undecided)s::interval)
    ) as parked_deliveries,
    (select count(*) from usage_drift) as usage_drift
