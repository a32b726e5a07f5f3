-- Commet's webhooks: a webhook is stored and applied in one statement, or neither.

-- Stores a webhook and applies its change. Returns 'duplicate' if its id was stored before, else
-- the status its row got: 'applied' if it has a change of one of our users, else p_status
-- ('ignored', 'unreadable', or 'other_mode', which is stored as ignored). p_change is null if the
-- webhook changes nothing in the mirror.
create or replace function receive_event(
    p_id text, p_type text, p_mode text, p_customer text, p_at timestamptz, p_payload bytea,
    p_status text, p_change jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text;
    v_status text := case when p_status = 'other_mode' then 'ignored' else p_status end;
    v_why text := case when p_status = 'other_mode' then p_status end;
begin
    if p_change is not null then
        v_user := find_user(p_customer);
        if v_user is null then
            v_why := 'unknown_customer';
        else
            v_status := 'applied';
        end if;
    end if;
    insert into webhook_events (id, type, mode, customer, occurred_at, payload, status, error)
    values (p_id, p_type, p_mode, p_customer, p_at, p_payload, v_status, v_why)
    on conflict (id) do nothing;
    if not found then
        return 'duplicate';
    end if;
    if v_status = 'applied' then
        perform record_change(v_user, p_at, p_change, p_now);
    end if;
    return v_status;
end
$$;

-- Tries a failed webhook of the inbox again. Returns its new status, 'applied' or 'ignored'; null
-- if the webhook is not failed, because another run was faster.
create or replace function retry_event(
    p_id text, p_customer text, p_at timestamptz, p_change jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text;
    v_status text := 'ignored';
    v_why text;
begin
    perform from webhook_events where id = p_id and status = 'failed' for update;
    if not found then
        return null;
    end if;
    if p_change is not null then
        v_user := find_user(p_customer);
        if v_user is null then
            v_why := 'unknown_customer';
        else
            v_status := 'applied';
            perform record_change(v_user, p_at, p_change, p_now);
        end if;
    end if;
    update webhook_events set
        status = v_status, due_at = null, error = v_why,
        -- Housekeeping drops old payloads, but not of failed webhooks. If it has passed this
        -- webhook already, the payload must be dropped here.
        payload = case when received_at > (
            select (c.position->>'received_at')::timestamptz from rounds c
            where c.name = 'inbox_payloads'
        ) is not false then payload end
    where id = p_id;
    return v_status;
end
$$;

-- Makes ignored webhooks of an unknown customer due again when the user appears, or is linked to
-- the customer. A trigger on `users` calls it.
create or replace function wake_events() returns trigger
language plpgsql as $$
begin
    update webhook_events set status = 'failed', due_at = now(), attempts = 0, error = null
    where customer in (new.id, new.commet_customer_id)
      and status = 'ignored' and error = 'unknown_customer' and payload is not null;
    return null;
end
$$;

create or replace trigger wake_events_of_user
after insert or update of commet_customer_id on users
for each row execute function wake_events();
