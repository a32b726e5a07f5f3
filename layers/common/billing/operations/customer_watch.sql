-- Customers about whom the schedule asks Commet who they are.

-- Leases customers about whom the schedule should ask Commet, for five minutes.
-- name: lease
with due as materialized (
    select id from customers where due_at <= now() order by due_at limit %(limit)s
    for update skip locked
)
update customers c set due_at = now() + interval '5 minutes'
from due
where c.id = due.id
returning c.id

-- Ends the lease, unless the customer was made due again since.
-- name: settle
update customers set due_at = null where id = %(customer_id)s and due_at = %(due_at)s

-- name: standing
select (select u.id from users u where u.commet_customer_id = c.id) as user_id, c.by_email,
       c.due_at
from customers c
where c.id = %(customer_id)s
