-- One budget for calls to Commet, shared by everything that runs.

-- Takes p_count tokens where p_keep would remain, all or none. Answers 0, or the seconds until it
-- is worth trying again. The bucket refills by p_rate a second up to p_burst. The clock is read
-- once the row is ours: whoever waited for it must not count that time twice.
create or replace function take_tokens(
    p_name text, p_count numeric, p_keep numeric, p_rate numeric, p_burst numeric
) returns numeric
language plpgsql as $$
declare
    v_bucket record;
    v_now timestamptz;
    v_tokens numeric;
begin
    insert into rate_bucket (name, tokens, refilled_at)
    values (p_name, p_burst, clock_timestamp())
    on conflict (name) do nothing;
    select b.tokens, b.refilled_at into v_bucket
    from rate_bucket b
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
    update rate_bucket set tokens = v_tokens - p_count, refilled_at = v_now where name = p_name;
    return 0;
end
$$;
