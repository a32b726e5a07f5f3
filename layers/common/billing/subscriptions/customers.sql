-- Users and Commet's customers. The routines that change them are in
-- database/routines/customers.sql.

-- name: of_user
select commet_customer_id from users where id = %(user_id)s

-- name: awaits
select awaits_customer(%(user_id)s)

-- name: record
select record_customer(%(customer)s, %(now)s)

-- name: note
select note_customer(%(customer_id)s)

-- name: owner
select owner_of(%(user_id)s, %(customer)s)

-- name: forget
select forget_customer(%(user_id)s, %(customer_id)s)

-- name: standing
select commet_customer_id is not null as is_linked, is_unverified(users) as is_unverified,
       customer_requested_at is not null as was_requested,
       coalesce(
           billing_email_taken_at > %(now)s::timestamptz - %(taken_for)s::interval, false
       ) as was_taken
from users where id = %(user_id)s

-- Commet refused to create a customer, and linked no other one.
-- name: unrequest
update users set customer_requested_at = null
where id = %(user_id)s and commet_customer_id is null

-- name: request
update users set customer_requested_at = now()
where id = %(user_id)s and customer_requested_at is null

-- If Commet links a customer by the address a second time, a day later, record_customer must not
-- take that link for one that a person has made since.
-- name: request_again
update users set billing_email_taken_at = %(now)s
where id = %(user_id)s and billing_email_taken_at is not null

-- Returns the id of ours that a customer had before Commet gave it this user's id: the id of the
-- user who has the customer, else the id that Commet named last.
-- name: named_before
select coalesce(
    (select u.id from users u where u.commet_customer_id = %(customer_id)s and u.id <> %(user_id)s),
    (select c.external_id from customers c
     where c.id = %(customer_id)s and c.external_id <> %(user_id)s)
)

-- name: approve
select approve_customer(%(user_id)s, %(customer_id)s, %(named)s, %(author)s, %(note)s)
