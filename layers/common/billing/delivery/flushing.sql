-- Makes deliveries of the user due that wait after an attempt. Leaves out leased ones, because a
-- run is sending them.
-- name: hurry
update usage_delivery set due_at = now(), waits = false
where user_id = %(user_id)s and state = 'pending' and waits

-- Returns totals that corrections have lowered below the claimed quantity, if they can be replaced.
-- name: lowered
select t.period, t.feature
from usage_period p
join usage_total t on t.period = p.id
where p.user_id = %(user_id)s and p.closed_at is null
  and p.ends_at > %(now)s::timestamptz + %(margin)s::interval
  and not t.fully_claimed and t.total < t.claimed
  and t.claims_paused_until is distinct from 'infinity'
  and can_be_replaced(t.period, t.feature, t.total)

-- name: begin_replacement
select begin_replacement(%(period)s, %(feature)s, %(now)s, %(quiet)s, %(margin)s, 'correction')

-- Returns whether usage of the user's running period is not sent to Commet or not answered. Parked
-- deliveries do not count, because they wait for a person.
-- name: any_undelivered
select exists (
    select from usage_period p
    join usage_total t on t.period = p.id
    where p.user_id = %(user_id)s and p.closed_at is null
      and (t.total > t.claimed + t.withheld
           or (t.total < t.claimed and not t.fully_claimed
               and p.ends_at > %(now)s::timestamptz + %(margin)s::interval
               and can_be_replaced(t.period, t.feature, t.total)))
) or exists (
    select from usage_delivery where user_id = %(user_id)s and state = 'pending'
)
