-- Erasure. The routines are in database/routines/erasing.sql.

-- name: erase
select erase_user(%(user_id)s, %(asked)s)

-- name: may_make_way
select exists (
    select from erasure e
    join users u on u.id = e.user_id
    where e.user_id = %(user_id)s and are_events_out(e.user_id) and (
        e.renamed_at < now() - interval '5 hours'
        -- Commet was never asked for a customer.
        or (u.commet_customer_id is null and u.customer_requested_at is null)
    )
)

-- name: replace
select replace_erased(%(user_id)s, %(limit)s)
