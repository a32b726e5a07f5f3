-- Correcting what was booked. The rules of locking are at the top of tables/0004_usage.sql.

-- Books a correction, or returns why it is refused. `verdict` is 'accepted', 'duplicate',
-- 'conflict' or the code of a refusal. `entry` is the ledger row with this key, null if there is
-- none. `booked_in` is its period, and `used` the total of that period afterwards. `credit` is what
-- a person has to give back, null if nothing. If the same correction is sent again, it gets the
-- same credit.
--
-- A correction above zero is usage. It is booked in the open period, and that period's limit
-- applies; if usage of that time belongs to another period, it is booked there (late.sql).
-- A correction below zero is booked in the period of the entry with the key p_corrects, or in the
-- period that contained p_occurred. If neither parameter is given, it is booked in the running
-- period, or refused if none runs.
--
-- Commet takes a lower total only while the period runs. After the end of the period, a correction
-- below zero needs a credit if we sent, or will send, more than the new total. That quantity is
-- `claimed` less the quantity that Commet has certainly refused. The credit is the excess, but
-- never more than the correction itself. credit_closed_periods will park the same quantity. If
-- Commet booked the usage in the first paid period after a trial or free plan, Commet's total of
-- that period is lowered instead (withhold_corrected).
create or replace function correct_usage(
    p_user text, p_feature text, p_key text, p_quantity numeric, p_occurred timestamptz,
    p_fingerprint bytea, p_reason text, p_author text, p_now timestamptz, p_statuses text[],
    p_corrects text, p_spending jsonb,
    out verdict text, out entry usage_event, out booked_in usage_period, out used numeric,
    out credit usage_credit
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    v_standing record;
    v_corrected record;
    v_happened timestamptz;  -- null: now
    v_claimed numeric;
    -- The period of v_happened (v_late) and its limit, if usage of v_happened does not belong in
    -- the open period.
    v_late_code text;
    v_late bigint;
    v_late_cap numeric;
    v_late_cap_code text;
    v_credit numeric;
    v_taken numeric;  -- used, carried and held
begin
    v_standing := lock_standing(p_user, p_feature, p_now, p_statuses);
    v_taken := v_standing.used + v_standing.carried + v_standing.held;
    entry := (
        select e from usage_event e
        where e.user_id = p_user and e.idempotency_key = p_key and e.feature = p_feature
    );
    if entry.user_id is not null then
        verdict := case when entry.fingerprint = p_fingerprint then 'duplicate' else 'conflict' end;
        booked_in := (select p from usage_period p where p.id = entry.period);
        select t.total into used from usage_total t
        where t.period = entry.period and t.feature = entry.feature;
        credit := (
            select c from usage_credit c
            where c.user_id = p_user and c.idempotency_key = p_key and c.feature = p_feature
        );
        return;
    end if;
    if pruned_fingerprint(p_user, p_feature, p_key) is not null then
        verdict := 'conflict';  -- the key was used long ago, and that entry was pruned
        return;
    end if;

    -- Finds no row if p_corrects is null, because no key is null.
    select e.user_id, e.occurred_at, e.period into v_corrected
    from usage_event e
    where e.user_id = p_user and e.idempotency_key = p_corrects and e.feature = p_feature;
    v_happened := coalesce(p_occurred, v_corrected.occurred_at);
    if p_quantity > 0 and v_standing.code is null and v_happened is not null then
        select l.code, l.period, l.cap, l.cap_code
        into v_late_code, v_late, v_late_cap, v_late_cap_code
        from late_place(
            p_user, p_feature, v_happened, v_standing.period, null, p_now, p_statuses, interval '0'
        ) as l;
    end if;
    booked_in := (select p from usage_period p where p.id = case
        when p_quantity > 0 then coalesce(v_late, v_standing.period)
        when p_corrects is not null then v_corrected.period
        when p_occurred is null then case
            when v_standing.ends_at > p_now or v_standing.goes_on then v_standing.period end
        else (
            -- The last of the periods that contain p_occurred. `least`, because the caller's clock
            -- may be ahead of ours.
            select n.id from usage_period n
            where n.user_id = p_user and n.starts_at <= p_occurred
              and n.ends_at > least(p_occurred, p_now)
              and coalesce(n.closed_at >= least(p_occurred, p_now), true)
            order by n.starts_at desc, n.id desc
            limit 1
        )
    end);
    -- The total is locked too, because claiming changes `claimed` without the user's lock.
    select t.total, t.claimed into used, v_claimed from usage_total t
    where t.period = booked_in.id and t.feature = p_feature
    for no key update;
    used := coalesce(used, 0) + p_quantity;
    verdict := case
        when v_standing.code = 'unknown_user' then v_standing.code
        when p_occurred > p_now + interval '5 minutes' then 'in_future'
        when p_corrects is not null and v_corrected.user_id is null then 'entry_not_found'
        when p_quantity < 0 and booked_in.id is null then 'no_period'
        when p_quantity < 0 and used < 0 then 'below_zero'
        when p_quantity > 0 and v_happened < p_now - interval '35 days' then 'too_old'
        when p_quantity > 0 and v_standing.code is not null then v_standing.code
        when v_late_code is not null then v_late_code
        when v_late is not null and used > v_late_cap then v_late_cap_code
        when v_late is not null and not is_too_large(used) then 'accepted'
        when p_quantity > 0 and used + v_standing.held > v_standing.cap then v_standing.cap_code
        when is_too_large(used) then 'total_too_large'
        when p_quantity > 0 then coalesce(
            overage_refusal(
                p_user, p_feature, v_standing.period, v_taken, v_taken + p_quantity, p_now,
                p_spending
            ),
            'accepted'
        )
        else 'accepted'
    end;
    if verdict <> 'accepted' then
        return;
    end if;
    if p_quantity < 0 and (booked_in.closed_at is not null or booked_in.ends_at <= p_now) then
        v_claimed := v_claimed
            - withhold_corrected(booked_in.id, p_feature, v_happened, p_quantity);
        v_credit := least(-p_quantity, v_claimed - refused_of(booked_in.id, p_feature) - used);
    end if;
    perform book_usage(
        p_user, p_key, p_fingerprint, p_feature, p_quantity, coalesce(v_happened, p_now),
        booked_in.id, 'correction', p_now,
        p_late => coalesce(v_happened < booked_in.starts_at, false),
        p_reason => p_reason, p_author => p_author,
        p_needs_credit => coalesce(v_credit > 0, false)
    );
    entry := (
        select e from usage_event e
        where e.user_id = p_user and e.idempotency_key = p_key and e.feature = p_feature
    );
    perform tell_correction(entry, used);
    if p_quantity > 0 and v_late is null then
        perform note_overage_of(p_user, booked_in.id, p_now, p_spending);
    elsif p_quantity < 0 then
        perform tell_spending(p_user, booked_in.id, p_now, p_spending);
    end if;
    if v_credit > 0 then
        insert into usage_credit (user_id, idempotency_key, feature, quantity, currency)
        select p_user, p_key, p_feature, v_credit, w.currency
        from usage_terms w
        where w.period = booked_in.id and w.feature = p_feature;
        perform price_credits(booked_in.id, p_feature);
        credit := (
            select c from usage_credit c
            where c.user_id = p_user and c.idempotency_key = p_key and c.feature = p_feature
        );
    end if;
end
$$;
