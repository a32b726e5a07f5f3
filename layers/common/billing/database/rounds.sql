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

-- name: leave_round
update reconcile_cursor set leased_until = null where name = %(name)s

-- name: finish_cursor
update reconcile_cursor set position = null, finished_at = now(), leased_until = null
where name = %(name)s

-- name: request_round
insert into reconcile_cursor as c (name, requested) values (%(name)s, %(start)s)
on conflict (name) do update set requested = excluded.requested
