-- Deliveries of the user that wait after an attempt are due now. Leased ones are not: a run is sending
-- them.
-- name: hurry
update usage_delivery set due_at = now(), waits = false
where user_id = %(user_id)s and state = 'pending' and waits

-- Totals that corrections have lowered below what Commet was told, and that may be replaced there.
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

-- Says whether Commet has still to be told of usage in the user's running period, or to answer.
-- Parked deliveries do not count: they wait for a person.
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
