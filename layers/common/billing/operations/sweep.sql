-- Compares subscriptions of Commet's list with the mirror. A row with the same values is confirmed,
-- and a row that differs is marked. A locked row is skipped, because another statement is writing
-- it.
-- name: compare
with listed as (
    select i.id, i.customer, i.known
    from jsonb_to_recordset(%(items)s::jsonb) as i (id text, customer text, known jsonb)
),
found as (
    select s.id,
           says_otherwise(s, l.known - 'checkout_url')
           -- Another user has it now.
           or coalesce(find_user(l.customer) <> s.user_id, false) as differs
    from subscriptions s
    join listed l on l.id = s.id
    order by s.id
    for update of s skip locked
),
written as (
    update subscriptions s set
        confirmed_at = case when found.differs then s.confirmed_at else now() end,
        refresh_due = case when found.differs then least(s.refresh_due, now())
                           else s.refresh_due end,
        recheck_at = case when %(recheck)s then now() else s.recheck_at end,
        version = case when found.differs then s.version + 1 else s.version end
    from found
    where s.id = found.id
)
select l.id, l.customer, find_user(l.customer) as user_id,
       case when found.differs then 'differs'
            when found.id is not null or exists (select from subscriptions s where s.id = l.id)
                then 'same'
            else 'missing' end as outcome
from listed l
left join found on found.id = l.id

-- Marks those of the next live rows that Commet's list did not confirm since the round began.
-- Returns the id of the last row that it read, or no row at the end.
-- name: mark_unseen
with looked_at as (
    select id from subscriptions
    where status in ('active', 'trialing', 'past_due', 'paused') and id > %(after)s
    order by id
    limit %(limit)s
),
unseen as (
    select s.id from subscriptions s
    join looked_at l on l.id = s.id
    where s.confirmed_at is null or s.confirmed_at < %(since)s
    order by s.id
    for update of s skip locked
),
marked as (
    update subscriptions s set refresh_due = least(s.refresh_due, now()), version = s.version + 1
    from unseen
    where s.id = unseen.id
)
select id from looked_at order by id desc limit 1
