-- Accepting usage, and reading whether it would be. The rules are in
-- database/routines/accepting.sql.

-- One word per event, in their order.
-- name: accept
select accept_usage(
    %(users)s::text[], %(features)s::text[],
    %(pairs)s::integer[], %(keys)s::text[], %(firsts)s::integer[], %(quantities)s::numeric[],
    %(occurred)s::timestamptz[], %(fingerprints)s::bytea[], %(properties)s::text[],
    %(now)s::timestamptz, %(statuses)s::text[]
) as verdicts

-- name: standing
select code, used, held, carried, included, unlimited, overage, cap, unit_price, currency,
       not fits_double(used + %(quantity)s) as too_large
from usage_standing(
    array[%(user_id)s]::text[], array[%(feature)s]::text[], %(now)s::timestamptz,
    %(statuses)s::text[]
)
