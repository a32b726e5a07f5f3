-- The positions of rounds: work that no single run finishes.

-- Leases a round for two minutes: the requested round, else the round under way, else a new round
-- if the last one began longer ago than `every`, or there was none. `now` is a time of the
-- functions' clock. Returns no row if no round is due, or while another run has the lease.
-- name: lease_round
insert into rounds as c (name, position, started_at, begun_at, leased_until)
values (%(name)s, %(start)s, now(), %(now)s, now() + interval '2 minutes')
on conflict (name) do update set
    position = case when c.requested is not null then c.requested
                    else coalesce(c.position, excluded.position) end,
    started_at = case when c.position is null or c.requested is not null then now()
                      else c.started_at end,
    begun_at = case when c.position is null or c.requested is not null then excluded.begun_at
                    else c.begun_at end,
    finished_at = case when c.position is null or c.requested is not null then null
                       else c.finished_at end,
    requested = null,
    leased_until = excluded.leased_until
where (c.leased_until is null or c.leased_until < now())
  and (c.position is not null or c.requested is not null
       or c.begun_at is null or c.begun_at < excluded.begun_at - %(every)s::interval)
returning position, started_at

-- name: advance_round
update rounds set position = %(position)s, leased_until = now() + interval '2 minutes'
where name = %(name)s

-- name: leave_round
update rounds set leased_until = null where name = %(name)s

-- name: finish_round
update rounds set position = null, finished_at = now(), leased_until = null
where name = %(name)s

-- name: request_round
insert into rounds as c (name, requested) values (%(name)s, %(start)s)
on conflict (name) do update set requested = excluded.requested

-- name: latest_round
select begun_at, finished_at, position is not null as is_under_way, requested is not null as is_requested
from rounds
where name = %(name)s
