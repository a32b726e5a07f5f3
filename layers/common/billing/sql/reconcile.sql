-- Long work that no single run finishes, and what is found on the way.

-- Takes up a round of some work, for two minutes ours alone: the one under way, the one that was
-- asked for, or the next where the last began long enough ago. No row while there is none, or while
-- somebody else works on it.
-- name: lease_cursor
insert into reconcile_cursor as c (name, position, started_at, leased_until)
values (%(name)s, %(start)s, now(), now() + interval '2 minutes')
on conflict (name) do update set
    position = case when c.requested is not null then c.requested
                    else coalesce(c.position, excluded.position) end,
    started_at = case when c.position is null or c.requested is not null then now()
                      else c.started_at end,
    finished_at = case when c.position is null or c.requested is not null then null
                       else c.finished_at end,
    requested = null,
    leased_until = excluded.leased_until
where (c.leased_until is null or c.leased_until < now())
  and (c.position is not null or c.requested is not null
       or c.started_at is null or c.started_at < now() - %(every)s::interval)
returning position, started_at

-- name: advance_cursor
update reconcile_cursor set position = %(position)s, leased_until = now() + interval '2 minutes'
where name = %(name)s

-- name: release_cursor
update reconcile_cursor set leased_until = null where name = %(name)s

-- name: finish_cursor
update reconcile_cursor set position = null, finished_at = now(), leased_until = null
where name = %(name)s

-- name: request_round
insert into reconcile_cursor as c (name, requested) values (%(name)s, %(start)s)
on conflict (name) do update set requested = excluded.requested

-- Holds what Commet lists against what is recorded. A row that says the same is confirmed, one that
-- does not is marked; one that is being written right now has its news already.
-- name: compare
with listed as (
    select i.id, i.customer, i.known
    from jsonb_to_recordset(%(items)s::jsonb) as i (id text, customer text, known jsonb)
),
held as (
    select s.id, says_otherwise(s, l.known - 'checkout_url') as differs
    from subscriptions s
    join listed l on l.id = s.id
    order by s.id
    for update of s skip locked
),
written as (
    update subscriptions s set
        confirmed_at = case when held.differs then s.confirmed_at else now() end,
        refresh_due = case when held.differs then least(s.refresh_due, now())
                           else s.refresh_due end,
        recheck_at = case when %(recheck)s then now() else s.recheck_at end,
        version = case when held.differs then s.version + 1 else s.version end
    from held
    where s.id = held.id
)
select l.id, find_user(l.customer) as user_id,
       case when held.differs then 'differs'
            when held.id is not null or exists (select from subscriptions s where s.id = l.id)
                then 'same'
            else 'missing' end as outcome
from listed l
left join held on held.id = l.id

-- Of the next rows believed live, marks those that Commet's list did not confirm since the round
-- began; answers the last one looked at, or nothing where there are no more.
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
