-- Reserving a quantity before the work. The rules are in database/routines/reservations.sql.

-- name: reserve
select r.verdict, (r.reservation).id, (r.reservation).user_id, (r.reservation).feature,
       (r.reservation).idempotency_key, (r.reservation).quantity, (r.reservation).properties,
       (r.reservation).expires_at, (r.reservation).state, (r.reservation).booked
from reserve_usage(
    %(id)s, %(user_id)s, %(feature)s, %(key)s, %(quantity)s, %(fingerprint)s, %(properties)s,
    %(expires_at)s, %(now)s, %(statuses)s, %(spending)s::jsonb
) as r

-- name: find
select id, user_id, feature, idempotency_key, quantity, properties, expires_at, state, booked
from usage_reservation
where id = %(id)s

-- name: confirm
select r.verdict, (r.reservation).id, (r.reservation).user_id, (r.reservation).feature,
       (r.reservation).idempotency_key, (r.reservation).quantity, (r.reservation).properties,
       (r.reservation).expires_at, (r.reservation).state, (r.reservation).booked
from confirm_reservation(
    %(id)s, %(user_id)s, %(quantity)s, %(fingerprint)s, %(now)s, %(statuses)s,
    %(spending)s::jsonb
) as r

-- name: release
select r.verdict, (r.reservation).id, (r.reservation).user_id, (r.reservation).feature,
       (r.reservation).idempotency_key, (r.reservation).quantity, (r.reservation).properties,
       (r.reservation).expires_at, (r.reservation).state, (r.reservation).booked
from release_reservation(%(id)s, %(user_id)s, %(now)s) as r

-- Marks expired reservations as expired, which removes them from the index that limits are checked
-- with. Skips locked reservations, because another statement is confirming or releasing them.
-- name: expire
with due as materialized (
    select id from usage_reservation
    where state = 'held' and expires_at <= %(now)s
    limit %(limit)s
    for update skip locked
)
update usage_reservation r set state = 'expired'
from due
where r.id = due.id
returning r.id

-- Deletes reservations that expired long ago.
-- name: forget
with old as materialized (
    select id from usage_reservation
    where state <> 'held' and expires_at < %(before)s
    limit %(limit)s
    for update skip locked
)
delete from usage_reservation r
using old
where r.id = old.id
