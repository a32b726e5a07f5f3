-- The call budget: a token bucket for calls to Commet, shared by the whole stack.

-- Takes p_count tokens if p_keep tokens remain afterwards; otherwise takes none. Returns 0 if the
-- tokens were taken, else the number of seconds after which trying again is worthwhile. The bucket
-- gains p_rate tokens a second, up to p_burst. The clock is read after the row is locked. If it
-- were read before, a caller that waited for the lock would set `refilled_at` back, and the same
-- time would refill the bucket twice.
create or replace function take_tokens(
    p_name text, p_count numeric, p_keep numeric, p_rate numeric, p_burst numeric
) returns numeric
language plpgsql as $$
declare
    v_bucket record;
    v_now timestamptz;
    v_tokens numeric;
begin
    insert into call_budget (name, tokens, refilled_at)
    values (p_name, p_burst, clock_timestamp())
    on conflict (name) do nothing;
    select b.tokens, b.refilled_at into v_bucket
    from call_budget b
    where b.name = p_name
    for no key update;
    v_now := clock_timestamp();
    if v_bucket.refilled_at > v_now then  -- Commet has asked for a pause
        return extract(epoch from v_bucket.refilled_at - v_now);
    end if;
    v_tokens := least(
        p_burst, v_bucket.tokens + p_rate * extract(epoch from v_now - v_bucket.refilled_at)
    );
    if v_tokens < p_count + p_keep then
        return (p_count + p_keep - v_tokens) / p_rate;
    end if;
    update call_budget set tokens = v_tokens - p_count, refilled_at = v_now where name = p_name;
    return 0;
end
$$;
