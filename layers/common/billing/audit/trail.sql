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

-- name: prune
select prune_audit(%(age)s, %(limit)s)
