-- Users whose address or name was not sent to Commet yet.

-- Leases one user who has a customer, for a minute. Until the lease ends, no other run sends the
-- user's contact data, so an older address never arrives after a newer one.
-- name: lease
update contact_change set leased_until = now() + interval '1 minute'
where user_id = (
    select c.user_id from contact_change c
    join users u on u.id = c.user_id and u.commet_customer_id is not null
    where c.due_at <= now() and (c.leased_until is null or c.leased_until < now())
    order by c.due_at
    limit 1
) and due_at <= now() and (leased_until is null or leased_until < now())
returning user_id, version

-- Read after the lease, so that the address belongs to the leased version or a newer one.
-- name: contact
select commet_customer_id, email, case when erased_at is null then name else 'Erased' end as name,
       erased_at is not null as is_erased
from users where id = %(user_id)s

-- Ends the lease, so that a version that is newer than the sent one is sent at once.
-- name: unlease
update contact_change set leased_until = null
where user_id = %(user_id)s

-- Commet has this version. A newer one remains due.
-- name: told
delete from contact_change where user_id = %(user_id)s and version = %(version)s

-- Commet refused this version. It is not sent again, unless the user is erased: then it is sent
-- again every hour, because Commet has to forget the old address.
-- name: refused
update contact_change c set
    leased_until = null,
    due_at = case when c.version <> %(version)s then c.due_at
                  when u.erased_at is not null then now() + interval '1 hour' end,
    refused = case when c.version = %(version)s then %(code)s end
from users u
where c.user_id = %(user_id)s and u.id = c.user_id

-- Commet has another address than we have: the user's address changed while the customer was
-- created.
-- name: compare
select note_contact(id) from users where id = %(user_id)s and email <> %(email)s
