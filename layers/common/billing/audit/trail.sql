-- The audit trail.

-- name: write
select audit(%(user_id)s, %(entry)s)

-- name: page
select id, at, actor_kind, actor, action, outcome, request_id, network, details
from audit
where user_id = %(user_id)s
  and (%(at)s::timestamptz is null or (at, id) < (%(at)s, %(id)s::uuid))
order by at desc, id desc
limit %(limit)s

-- name: last_uses
select actor, max(at) as at
from audit
where id = any(%(ids)s)
group by actor

-- name: prune
select prune_audit(%(age)s, %(limit)s)
