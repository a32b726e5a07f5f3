-- The ledger: correcting it and reading it.

-- name: correct
select c.verdict, c.used, (c.entry).*, (c.booked_in).starts_at as period_start,
       (c.booked_in).ends_at as period_end
from correct_usage(
    %(user_id)s, %(feature)s, %(key)s, %(quantity)s, %(occurred_at)s, %(fingerprint)s, %(reason)s,
    %(author)s, %(now)s, %(statuses)s
) as c

-- A page looks at no more than so many entries, whichever of them are wanted, and the last one it
-- looked at is always among the rows: the next page starts after it.
-- name: page_of_user
with seen as materialized (
    select e.*, e.feature = coalesce(%(feature)s, e.feature) as wanted,
           row_number() over (order by e.booked_at, e.idempotency_key) as position
    from (
        select n.*
        from usage_period p
        cross join lateral (
            select * from usage_event
            where period = p.id and booked_at >= %(since)s and booked_at < %(until)s
              and (booked_at, idempotency_key) > (%(after_time)s, %(after_key)s)
            order by booked_at, idempotency_key
            limit %(look_at)s
        ) as n
        where p.user_id = %(user_id)s
        order by n.booked_at, n.idempotency_key
        limit %(look_at)s
    ) as e
)
select s.*, p.starts_at as period_start, p.ends_at as period_end
from seen s
join usage_period p on p.id = s.period
where s.wanted or s.position = %(look_at)s
order by s.position
limit %(limit)s

-- name: page_of_all
with seen as materialized (
    select e.*, e.feature = coalesce(%(feature)s, e.feature) as wanted,
           row_number() over (order by e.booked_at, e.user_id, e.idempotency_key) as position
    from (
        select * from usage_event
        where booked_at >= %(since)s and booked_at < %(until)s
          and (booked_at, user_id, idempotency_key)
              > (%(after_time)s, %(after_user)s, %(after_key)s)
        order by booked_at, user_id, idempotency_key
        limit %(look_at)s
    ) as e
)
select s.*, p.starts_at as period_start, p.ends_at as period_end
from seen s
join usage_period p on p.id = s.period
where s.wanted or s.position = %(look_at)s
order by s.position
limit %(limit)s
