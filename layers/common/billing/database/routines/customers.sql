-- Which customer of Commet belongs to which user. Only these routines write
-- `users.commet_customer_id`.
--
-- Commet names a customer by our id, if it has one for the customer (`externalId`), else by its own
-- id. Commet can give a customer another id of ours in two cases.
-- In Commet's dashboard, a person changes the id. The customer and all that it has then belong to
-- the new user.
-- When we ask for a new customer and an existing customer has the same address, Commet gives our id
-- to the existing one. The address alone proves nothing, so the user gets nothing of that customer
-- (`by_email`). The exception: Commet had no id of ours for the customer, and the user proved to
-- have the address.
--
-- The order of locks: the customer, then users in the order of their ids.

-- Returns whether Commet was asked to create a customer for the user, and we do not know yet
-- whether it created one. Until then, what Commet says about the user may be about somebody else,
-- whose customer has the same address.
create or replace function awaits_customer(p_user text) returns boolean
language sql stable as $$
    select coalesce((
        select u.customer_requested_at is not null and u.commet_customer_id is null
        from users u where u.id = p_user
    ), false)
$$;

-- Returns the id of the user who has a customer, null if nobody has it. p_customer is our id for
-- the customer, or Commet's if Commet has none of ours.
create or replace function find_user(p_customer text) returns text
language sql stable as $$
    select id from users where id = p_customer and not awaits_customer(id)
    union all
    select id from users where commet_customer_id = p_customer
    union all
    select n.id from present_id(p_customer) as n (id) where n.id <> p_customer
    limit 1
$$;

-- Returns the id of the user who owns a subscription. Commet was asked about p_user and said that
-- the subscription is p_customer's. Returns an empty text if it is nobody's of ours, null if the
-- owner is not known.
create or replace function owner_of(p_user text, p_customer text) returns text
language sql stable as $$
    select case
        when p_customer is null or find_user(p_customer) = p_user then p_user
        when find_user(p_customer) is not null then find_user(p_customer)
        when exists (select from users where id = p_customer) then null
        when p_customer like 'cus\_%' and not exists (
            select from customers where id = p_customer and changed_at is not null
        ) then null
        else ''
    end
$$;

-- Records a customer that we do not know, so that the schedule asks Commet once who it is.
create or replace function note_customer(p_customer text) returns void
language sql as $$
    insert into customers (id, due_at)
    select p_customer, now() where p_customer like 'cus\_%'
    on conflict (id) do nothing
$$;

-- Records what Commet said about a customer, and links the customer to the user whose id Commet has
-- for it. If another user had the customer until then, that user loses it and its subscriptions.
-- p_customer:
--   id, external_id   Commet's id, and the id of ours that Commet has for the customer, or null
--   at                Commet's time of this news; older news changes nothing. Null: Commet is asked
--   email_key         the key of the address that Commet has for the customer, or null
--   ours              whether we created the customer for exactly this id
-- Commet links a customer by its address only while it answers our request for a customer. So if
-- Commet reports a link before any request, or five minutes or more after an answer, a person has
-- made the link.
create or replace function record_customer(p_customer jsonb, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_id text := p_customer->>'id';
    v_named text := present_id(p_customer->>'external_id');
    v_at timestamptz := (p_customer->>'at')::timestamptz;
    v_old customers;
    v_holder text;
    v_by_email boolean;
begin
    if v_id is null then
        return;
    end if;
    insert into customers (id) values (v_id) on conflict (id) do nothing;
    v_old := (select c from customers c where c.id = v_id for update);
    if v_at is null or (v_old.changed_at = v_at and v_old.external_id is distinct from v_named) then
        update customers set due_at = least(due_at, now()) where id = v_id;
        return;
    end if;
    if v_at < v_old.changed_at then
        return;
    end if;
    v_holder := (select u.id from users u where u.commet_customer_id = v_id);
    perform from users where id in (v_holder, v_named) order by id for no key update;
    v_by_email := exists (
        select from users u where u.id = v_named and u.customer_requested_at is not null
    ) and not (
        coalesce((p_customer->>'ours')::boolean, false)
        or coalesce(v_named = v_holder, false)
        or coalesce(v_old.approved_for = v_named, false)
        or coalesce(v_old.external_id = v_named and not v_old.by_email, false)
        -- Commet had no id of ours for the customer, and the user proved to have the customer's
        -- address. The condition checks the customer's address (`email_key`), and not the user's
        -- present one, because Commet may have found the customer by another address.
        or (
            v_old.changed_at is not null and v_old.external_id is null
            and is_address_proven(v_named, p_customer->>'email_key')
            and exists (select from users u where u.id = v_named and u.billing_email_taken_at is null)
        )
        or (
            not coalesce(v_old.external_id = v_named, false)
            and exists (
                select from users u
                where u.id = v_named and u.billing_email_taken_at < v_at - interval '5 minutes'
            )
        )
    );
    update customers set
        external_id = v_named, changed_at = v_at, by_email = v_by_email,
        -- A user may already have subscriptions of a customer that was created elsewhere, so ask
        -- soon.
        due_at = case when external_id is distinct from v_named and not v_by_email
                           and not coalesce((p_customer->>'ours')::boolean, false) then now()
                      -- Ask in a minute, in case the request that found this out does not correct
                      -- it.
                      when v_by_email then now() + interval '1 minute'
                      else due_at end
    where id = v_id;
    if v_by_email then
        update users set billing_email_taken_at = p_now where id = v_named;
        update webhooks set error = 'somebody_elses', payload = null
        where customer = v_named and status = 'ignored' and user_id is null
          and coalesce(error, 'unknown_customer') = 'unknown_customer';
        return;
    end if;
    if v_holder <> v_named or v_named is null then
        update users set commet_customer_id = null where id = v_holder and commet_customer_id = v_id;
        if found then
            perform end_subscriptions(v_holder, v_at, p_now);
            perform tell_subscription(v_holder, p_now);
        end if;
    end if;
    update users set commet_customer_id = v_id, billing_email_taken_at = null
    where id = v_named and commet_customer_id is distinct from v_id
      and not exists (  -- another customer got the id later
          select from customers o
          where o.external_id = v_named and o.id <> v_id and not o.by_email and o.changed_at > v_at
      );
    if found then
        perform verify_customer(v_named);
    end if;
end
$$;

-- Unlinks a customer that Commet no longer knows.
create or replace function forget_customer(p_user text, p_customer text) returns void
language sql as $$
    update customers set external_id = null, by_email = false
    where id = p_customer and external_id = p_user;
    update users set
        commet_customer_id = null, customer_requested_at = coalesce(customer_requested_at, now())
    where id = p_user and commet_customer_id = p_customer;
$$;

-- Allows a user to have a customer that Commet does not link to the user by itself. p_named is the
-- id of ours that Commet has for the customer. Returns null, or why the user may not have it:
-- 'unknown_user', 'customer_of_another' (another user has the customer) or 'has_a_customer' (the
-- user has another customer, and customers are never merged).
create or replace function approve_customer(
    p_user text, p_customer text, p_named text, p_author text, p_note text
) returns text
language plpgsql as $$
begin
    if not exists (select from users where id = p_user and erased_at is null) then
        return 'unknown_user';
    end if;
    if exists (select from users where commet_customer_id = p_customer and id <> p_user)
       or (p_named <> p_user and exists (select from users where id = p_named)
           and not exists (  -- Commet named that user only because of the address
               select from customers
               where id = p_customer and by_email and external_id = p_named
           )) then
        return 'customer_of_another';
    end if;
    if exists (select from users where id = p_user and commet_customer_id <> p_customer) then
        return 'has_a_customer';
    end if;
    insert into customers as c (id, approved_for, approved_by, approved_note)
    values (p_customer, p_user, p_author, p_note)
    on conflict (id) do update set
        approved_for = excluded.approved_for, approved_by = excluded.approved_by,
        approved_note = excluded.approved_note
    where c.approved_for is distinct from excluded.approved_for;
    return null;
end
$$;

-- Makes the schedule ask Commet about a customer when the customer's user appears.
create or replace function ask_about_customer() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    update customers set due_at = now(), changed_at = null where external_id = new.id;
    return null;
end
$$;

create or replace trigger ask_about_customer_of_user
after insert on users
for each row execute function ask_about_customer();

-- Returns why a webhook about p_customer is ignored, for a customer that no user has.
-- 'unknown_customer': the webhook is applied later if the user appears. 'somebody_elses': the
-- webhook is about somebody else who has the user's address, and is never applied.
create or replace function why_ignored(p_customer text) returns text
language sql stable as $$
    select case when exists (
        select from users where id = p_customer and billing_email_taken_at is not null
    ) then 'somebody_elses' else 'unknown_customer' end
$$;

-- Makes the schedule send a user's address and name to Commet, because they differ from those that
-- Commet has.
create or replace function note_contact(p_user text) returns void
language sql as $$
    insert into contact_change as c (user_id) values (p_user)
    on conflict (user_id) do update set version = c.version + 1, due_at = now(), refused = null
$$;

create or replace function contact_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    perform note_contact(new.id);
    return null;
end
$$;

create or replace trigger contact_of_user_changed
after update of email, name on users
for each row
when (
    (old.email, old.name) is distinct from (new.email, new.name)
    and (new.commet_customer_id is not null or new.customer_requested_at is not null)
)
execute function contact_changed();
