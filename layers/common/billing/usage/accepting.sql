-- Statements that accept usage, or read whether it would be accepted. The rules are in
-- database/routines/accepting.sql.

-- Returns one word per event, in the order of the events.
-- name: accept
select accept_usage(
    %(users)s::text[], %(features)s::text[], %(payers)s::integer[],
    %(pairs)s::integer[], %(keys)s::text[], %(firsts)s::integer[], %(quantities)s::numeric[],
    %(occurred)s::timestamptz[], %(fingerprints)s::bytea[], %(properties)s::text[],
    %(now)s::timestamptz, %(statuses)s::text[], %(spending)s::jsonb, %(grace)s::interval
) as verdicts

-- name: standing
select s.code, s.used, s.held, s.carried, s.used_before, s.included, s.unlimited, s.overage, s.cap, s.cap_code,
       s.unit_price, s.currency, e.type,
       is_too_large(s.used + %(quantity)s) as too_large,
       overage_refusal(
           %(user_id)s, %(feature)s, r.period, s.used + s.carried + s.held,
           s.used + s.carried + s.held + %(quantity)s, %(now)s, %(spending)s::jsonb
       ) as refusal,
       o.spent, o.ceiling, o.set_by, o.currency as spent_in
from usage_standing(
    array[%(user_id)s]::text[], array[%(feature)s]::text[], %(now)s::timestamptz,
    %(statuses)s::text[]
) as s
left join entitlements e on e.user_id = %(user_id)s and e.feature = %(feature)s
-- If the open period has ended, nothing is spent yet in the period that follows it.
cross join lateral (
    select case when s.ends_at > %(now)s or s.goes_on then s.period end as period
) as r
left join lateral overage_of(
    array[%(user_id)s]::text[], array[r.period], %(now)s::timestamptz, %(spending)s::jsonb
) as o on true
