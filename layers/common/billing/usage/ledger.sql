-- Reading the ledger, page by page.

-- A page reads at most `look_at` entries, whether or not they are `wanted`. If it reads that many,
-- the rows always include the last entry, because the next page starts after it. The user's entries
-- are found through the user's periods. `bound` finds the time at which the page ends with the
-- index alone, so hardly more entries are read than the page has, however many periods there are.
-- Conditions compare times together with the period, so that only the index of one period can be
-- used. With a condition on time alone, the planner may choose the index of all users and read
-- everybody's entries.
-- name: page_of_user
with mine as materialized (
    select id from usage_period where user_id = %(user_id)s
),
bound as (
    select n.booked_at
    from mine
    cross join lateral (
        select booked_at from usage_event
        where period = mine.id
          and (period, booked_at) >= (mine.id, %(since)s)
          and (period, booked_at) < (mine.id, %(until)s)
          and (period, booked_at) > (mine.id, %(after_time)s)
        order by booked_at
        limit %(look_at)s
    ) as n
    order by n.booked_at
    offset %(look_at)s - 1
    limit 1
),
seen as materialized (
    select e.user_id, e.idempotency_key, e.kind, e.feature, e.quantity, e.occurred_at, e.booked_at,
           e.period, e.late, e.reason, e.author, e.needs_credit, e.properties,
           e.feature = coalesce(%(feature)s, e.feature) as wanted,
           row_number() over (order by e.booked_at, e.idempotency_key, e.feature) as position
    from (
        select n.user_id, n.idempotency_key, n.kind, n.feature, n.quantity, n.occurred_at,
               n.booked_at, n.period, n.late, n.reason, n.author, n.needs_credit, n.properties
        from mine
        cross join lateral (
            select user_id, idempotency_key, kind, feature, quantity, occurred_at, booked_at,
                   period, late, reason, author, needs_credit, properties
            from usage_event
            where period = mine.id
              and (period, booked_at) >= (mine.id, %(since)s)
              and (period, booked_at) < (mine.id, %(until)s)
              and (period, booked_at)
                  <= (mine.id, coalesce((select booked_at from bound), 'infinity'))
              and (period, booked_at, idempotency_key, feature)
                  > (mine.id, %(after_time)s, %(after_key)s, %(after_feature)s)
            order by booked_at, idempotency_key, feature
            limit %(look_at)s
        ) as n
        order by n.booked_at, n.idempotency_key, n.feature
        limit %(look_at)s
    ) as e
)
select s.user_id, s.idempotency_key, s.kind, s.feature, s.quantity, s.occurred_at, s.booked_at,
       s.period, s.late, s.reason, s.author, s.properties,
       s.kind = 'correction' and coalesce((
           select c.quantity > 0 from usage_credit c
           where c.user_id = s.user_id and c.idempotency_key = s.idempotency_key
             and c.feature = s.feature
       ), s.needs_credit) as needs_credit,
       s.wanted, s.position, p.starts_at as period_start, p.ends_at as period_end,
       p.subscription_id, p.plan_id
from seen s
join usage_period p on p.id = s.period
where s.wanted or s.position = %(look_at)s
order by s.position
limit %(limit)s

-- Does the same as page_of_user, for the entries of all users.
-- name: page_of_all
with seen as materialized (
    select e.user_id, e.idempotency_key, e.kind, e.feature, e.quantity, e.occurred_at, e.booked_at,
           e.period, e.late, e.reason, e.author, e.needs_credit, e.properties,
           e.feature = coalesce(%(feature)s, e.feature) as wanted,
           row_number() over (
               order by e.booked_at, e.user_id, e.idempotency_key, e.feature
           ) as position
    from (
        select user_id, idempotency_key, kind, feature, quantity, occurred_at, booked_at, period,
               late, reason, author, needs_credit, properties
        from usage_event
        where booked_at >= %(since)s and booked_at < %(until)s
          and (booked_at, user_id, idempotency_key, feature)
              > (%(after_time)s, %(after_user)s, %(after_key)s, %(after_feature)s)
        order by booked_at, user_id, idempotency_key, feature
        limit %(look_at)s
    ) as e
)
select s.user_id, s.idempotency_key, s.kind, s.feature, s.quantity, s.occurred_at, s.booked_at,
       s.period, s.late, s.reason, s.author, s.properties,
       s.kind = 'correction' and coalesce((
           select c.quantity > 0 from usage_credit c
           where c.user_id = s.user_id and c.idempotency_key = s.idempotency_key
             and c.feature = s.feature
       ), s.needs_credit) as needs_credit,
       s.wanted, s.position, p.starts_at as period_start, p.ends_at as period_end,
       p.subscription_id, p.plan_id
from seen s
join usage_period p on p.id = s.period
where s.wanted or s.position = %(look_at)s
order by s.position
limit %(limit)s

-- The entries of a user with one key.
-- name: entries_of_key
select e.user_id, e.idempotency_key, e.kind, e.feature, e.quantity, e.occurred_at, e.booked_at,
       e.period, e.late, e.reason, e.author, e.properties,
       e.kind = 'correction' and coalesce((
           select c.quantity > 0 from usage_credit c
           where c.user_id = e.user_id and c.idempotency_key = e.idempotency_key
             and c.feature = e.feature
       ), e.needs_credit) as needs_credit,
       p.starts_at as period_start, p.ends_at as period_end, p.subscription_id, p.plan_id
from usage_event e
join usage_period p on p.id = e.period
where e.user_id = %(user_id)s and e.idempotency_key = %(key)s
  and e.feature = coalesce(%(feature)s, e.feature)
  and e.booked_at >= %(since)s and e.booked_at < %(until)s
order by e.booked_at, e.feature
