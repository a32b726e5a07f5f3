-- Commet's webhooks. One statement stores a webhook and applies it, so either both happen or
-- neither.

-- Writes into `webhooks.user_id` whose webhook about a customer it was: the user who has the
-- customer now. If Commet linked the customer by its address, the webhook is about somebody else,
-- so its payload is deleted.
create or replace function note_whose(p_id text, p_customer text) returns void
language sql as $$
    update webhooks set
        user_id = (select u.id from users u where u.commet_customer_id = p_customer),
        payload = case when not exists (
            select from customers c where c.id = p_customer and c.by_email
        ) then payload end
    where id = p_id
$$;

-- Stores a webhook and applies its change. Returns 'duplicate' if a webhook with this id is stored
-- already, else the status of the new row. The status is 'applied' if the webhook has a change of
-- one of our users or news about a customer (record_customer), else p_status ('ignored',
-- 'unreadable', or 'other_mode', which is stored as ignored). p_change is null if the webhook
-- changes nothing in the mirror.
create or replace function receive_webhook(
    p_id text, p_type text, p_mode text, p_customer text, p_at timestamptz, p_payload bytea,
    p_status text, p_change jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text := find_user(p_customer);
    v_status text := case when p_status = 'other_mode' then 'ignored' else p_status end;
    v_why text := case when p_status = 'other_mode' then p_status end;
    -- True for a webhook about somebody else who has our user's address. Its payload is not stored.
    v_others boolean := p_status <> 'other_mode' and v_user is null
        and not coalesce(p_change ? 'customer', false)
        and why_ignored(p_customer) = 'somebody_elses';
begin
    if p_change is not null then
        if v_user is null and not p_change ? 'customer' then
            v_why := why_ignored(p_customer);
        else
            v_status := 'applied';
        end if;
    end if;
    insert into webhooks (id, type, mode, customer, user_id, occurred_at, payload, status, error)
    select p_id, p_type, p_mode,
           case when e.id is null then p_customer else e.id end, v_user, p_at,
           case when e.id is null and not v_others then p_payload end, v_status, v_why
    from (select 1) as one
    -- If the webhook is about an erased user, neither its payload nor an id that was replaced is
    -- stored.
    left join users e on e.id = find_user(p_customer) and e.erased_at is not null
    on conflict (id) do nothing;
    if not found then
        return 'duplicate';
    end if;
    if v_why in ('unknown_customer', 'somebody_elses') then
        perform note_customer(p_customer);
    elsif v_status = 'applied' and p_change ? 'customer' then
        perform record_customer(p_change->'customer', p_now);
        perform note_whose(p_id, p_change->'customer'->>'id');
    elsif v_status = 'applied' then
        perform record_change(v_user, p_at, p_change, p_now);
    end if;
    -- This lock waits for an erasure that runs at the same moment. An erasure that starts later
    -- waits for this statement, and then finds the webhook's row.
    perform from users where id = find_user(p_customer) for no key update;
    update webhooks set payload = null
    where id = p_id and payload is not null and is_erased(p_customer);
    return v_status;
end
$$;

-- Tries a failed webhook again. Returns its new status, 'applied' or 'ignored'. Returns null if the
-- webhook is no longer failed, because another run has applied it.
create or replace function retry_webhook(
    p_id text, p_customer text, p_at timestamptz, p_change jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text;
    v_status text := 'ignored';
    v_why text;
begin
    perform from webhooks where id = p_id and status = 'failed' for update;
    if not found then
        return null;
    end if;
    if p_change is not null then
        v_user := find_user(p_customer);
        if p_change ? 'customer' then
            v_status := 'applied';
            perform record_customer(p_change->'customer', p_now);
            perform note_whose(p_id, p_change->'customer'->>'id');
        elsif v_user is null then
            v_why := why_ignored(p_customer);
            perform note_customer(p_customer);
        else
            v_status := 'applied';
            perform record_change(v_user, p_at, p_change, p_now);
        end if;
    end if;
    update webhooks set
        status = v_status, due_at = null, error = v_why,
        user_id = case when p_change ? 'customer' then user_id else v_user end,
        -- Housekeeping deletes old payloads, but not of failed webhooks. If it has passed this
        -- webhook already, the payload has to be deleted here.
        payload = case when is_erased(customer) or v_why = 'somebody_elses' then null when received_at > (
            select (c.position->>'received_at')::timestamptz from rounds c
            where c.name = 'inbox_payloads'
        ) is not false then payload end
    where id = p_id;
    return v_status;
end
$$;

-- Makes ignored webhooks of an unknown customer due again when the user appears, or is linked to
-- the customer. This is a trigger on `users`.
create or replace function wake_webhooks() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    update webhooks set status = 'failed', due_at = now(), attempts = 0, error = null
    where customer in (new.id, new.commet_customer_id)
      and status = 'ignored' and error = 'unknown_customer' and payload is not null;
    return null;
end
$$;

create or replace trigger wake_webhooks_of_user
after insert or update of commet_customer_id on users
for each row execute function wake_webhooks();
