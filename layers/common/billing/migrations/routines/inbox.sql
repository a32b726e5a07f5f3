-- Commet's webhooks: an event is stored and applied in one statement, or neither.

-- Takes a webhook: inbox row and its effect, together or not at all. Answers 'duplicate' or the
-- status the row got. p_news is null where the event changes nothing here; p_status is then what
-- the row gets. An event for nobody we know is 'ignored' too.
create or replace function receive_event(
    p_id text, p_type text, p_mode text, p_customer text, p_at timestamptz, p_payload bytea,
    p_status text, p_news jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text;
    v_status text := p_status;
begin
    if p_news is not null then
        v_user := find_user(p_customer);
        if v_user is not null then
            v_status := 'applied';
        end if;
    end if;
    insert into webhook_events (id, type, mode, customer, occurred_at, payload, status)
    values (p_id, p_type, p_mode, p_customer, p_at, p_payload, v_status)
    on conflict (id) do nothing;
    if not found then
        return 'duplicate';
    end if;
    if v_status = 'applied' then
        perform record_news(v_user, p_at, p_news, p_now);
    end if;
    return v_status;
end
$$;

-- Applies an event that is in the inbox already but could not be applied when it came.
create or replace function retry_event(
    p_id text, p_customer text, p_at timestamptz, p_news jsonb, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user text;
    v_status text := 'ignored';
begin
    perform from webhook_events where id = p_id and status = 'failed' for update;
    if not found then
        return null;
    end if;
    if p_news is not null then
        v_user := find_user(p_customer);
        if v_user is not null then
            v_status := 'applied';
            perform record_news(v_user, p_at, p_news, p_now);
        end if;
    end if;
    update webhook_events set status = v_status, due_at = null, error = null where id = p_id;
    return v_status;
end
$$;
