-- Accepting usage. The rules of locking are at the top of tables/0004_usage.sql.

-- Returns whether a number reaches Commet unchanged: whether it has at most 15 significant digits.
-- Commet reads JSON numbers as doubles, which keep any 15 digits.
create or replace function fits_double(p_number numeric) returns boolean
language sql immutable as $$
    select abs(p_number) < power(10::numeric, 15 - min_scale(p_number))
$$;

-- Returns what users may use of features now, and have used: one row for each pair of p_users and
-- p_features, numbered by `pair`.
--   code     why usage of any quantity is refused; null if it is not
--   cap      the limit of `used`; null if unlimited, or if overage is billed
--   held     the quantity of reservations that count against the limit
--   carried  counted in an earlier period and booked by Commet in this one; uses up `included` too
--   goes_on  the subscription's known end has passed, and Commet has not said that it ended
-- If the period has ended, it is returned with its dates and with `used` and `carried` 0, because
-- nothing has been used yet in the one that follows.
-- While a subscription goes on past its known end, for a day at most, what is left of the old period
-- may be used, without overage, as long as Commet's last answer is at most a minute old.
-- `limit 1` changes no answer. It makes each look-up one probe of an index per pair; a planner
-- without statistics would rather join whole tables.
create or replace function usage_standing(
    p_users text[], p_features text[], p_now timestamptz, p_statuses text[]
) returns table (
    pair bigint, feature text, code text, name text, unit text,
    period bigint, starts_at timestamptz, ends_at timestamptz, used numeric, included numeric,
    unlimited boolean, overage boolean, cap numeric, unit_price numeric, currency text,
    held numeric, carried numeric, goes_on boolean
)
language sql stable as $$
    select
        q.pair, q.feature,
        case
            when u.id is null then 'unknown_user'
            when s.status is null or s.status <> all (p_statuses) then 'subscription_required'
            when s.ended_for >= interval '1 day' then 'subscription_required'
            when s.ended_for is not null and not s.asked_since then 'access_unconfirmed'
            when e.granted and not e.metered then 'feature_not_metered'
            when p.id is null and (
                e.granted or not exists (
                    select from entitlements n where n.user_id = q.user_id and n.allowed
                )
            ) then 'access_unconfirmed'  -- paid; the entitlements or the period are still to come
            when e.granted is not true then 'feature_not_in_plan'
        end,
        e.name, e.unit, p.id, p.starts_at, p.ends_at, coalesce(t.total, 0),
        e.included, coalesce(e.unlimited, false), coalesce(e.overage, false),
        case when not e.unlimited and not e.overage
             then coalesce(e.included, 0) - coalesce(t.carried, 0) end,
        e.unit_price, e.currency,
        -- Summed only if the caller uses `held`. accept_usage does if there is a limit.
        (
            select coalesce(sum(r.quantity), 0)
            from usage_reservation r
            where r.user_id = q.user_id and r.feature = q.feature and r.state = 'held'
              and r.expires_at > p_now
        ),
        coalesce(t.carried, 0),
        s.ended_for is not null
    from unnest(p_users, p_features) with ordinality as q (user_id, feature, pair)
    left join lateral (
        select n.id from users n where n.id = q.user_id limit 1
    ) as u on true
    left join lateral (
        -- Overage is never billed in a trial, on a free plan, or past a known end.
        select
            n.status, k.ended_for,
            n.status <> 'trialing' and n.billing_interval is not null and k.ended_for is null
                as billed,
            -- Commet confirmed the row after its end, in the last minute. Two ages are compared,
            -- because p_now may be the time of a test clock.
            coalesce(now() - n.confirmed_at < least(k.ended_for, interval '1 minute'), false)
                as asked_since
        from current_subscription n
        cross join lateral (
            select case when e.ends_at <= p_now then p_now - e.ends_at end as ended_for
            from known_end(
                n.status, n.cancel_at_period_end, n.period_end, n.trial_ends_at
            ) as e (ends_at)
        ) as k
        where n.user_id = q.user_id limit 1
    ) as s on true
    left join lateral (
        select
            n.name, n.unit, n.included, n.unlimited, n.unit_price, n.currency,
            n.type = 'usage' and n.model is not distinct from 'metered' as metered,
            -- Commet says "not allowed" also when the included quantity is used up. The plan then
            -- has the feature, and the limit refuses.
            n.allowed or (
                n.included > 0 and not n.unlimited and not (n.overage_enabled and s.billed)
            ) as granted,
            n.overage_enabled and s.billed as overage
        from entitlements n
        where n.user_id = q.user_id and n.feature = q.feature limit 1
    ) as e on true
    left join lateral (
        select n.id, n.starts_at, n.ends_at from usage_period n
        where n.user_id = q.user_id and n.closed_at is null limit 1
    ) as p on true
    left join lateral (
        select n.total, n.carried
        from usage_total n
        where n.period = p.id and n.feature = q.feature
          and (p.ends_at > p_now or s.ended_for is not null)
        limit 1
    ) as t on true
$$;

-- Locks one user and returns what the user may use of one feature, as usage_standing does, in the
-- period that contains p_now. If the open period has ended, the following one is opened first.
create or replace function lock_standing(
    p_user text, p_feature text, p_now timestamptz, p_statuses text[],
    out code text, out period bigint, out ends_at timestamptz, out used numeric, out cap numeric,
    out held numeric, out goes_on boolean
)
language plpgsql as $$
begin
    perform from users where id = p_user for no key update;
    loop
        select s.code, s.period, s.ends_at, s.used, s.cap, s.held, s.goes_on
        into code, period, ends_at, used, cap, held, goes_on
        from usage_standing(array[p_user], array[p_feature], p_now, p_statuses) as s;
        exit when code is not null or ends_at > p_now or goes_on;
        perform roll_over_periods(array[p_user], p_now, p_statuses);
    end loop;
end
$$;

-- Books one entry: adds it to the ledger, to its total and to its day. The caller has locked the
-- user and decided that the entry is booked.
create or replace function book_usage(
    p_user text, p_key text, p_fingerprint bytea, p_feature text, p_quantity numeric,
    p_occurred timestamptz, p_period bigint, p_kind text, p_now timestamptz,
    p_late boolean default false, p_reason text default null, p_author text default null,
    p_needs_credit boolean default false, p_properties jsonb default null
) returns void
language sql as $$
    insert into usage_event (
        user_id, idempotency_key, fingerprint, feature, quantity, occurred_at, booked_at, period,
        late, kind, reason, author, needs_credit, properties
    )
    values (
        p_user, p_key, p_fingerprint, p_feature, p_quantity, p_occurred, p_now, p_period,
        p_late, p_kind, p_reason, p_author, p_needs_credit, p_properties
    );
    insert into usage_daily as d (period, feature, day, quantity)
    values (p_period, p_feature, (p_now at time zone 'UTC')::date, p_quantity)
    on conflict (period, feature, day) do update set quantity = d.quantity + excluded.quantity;
    -- Two steps, because p_quantity may be below zero. Inserting a negative total would violate the
    -- check on `total` before Postgres noticed that the row exists.
    insert into usage_total (period, feature, total) values (p_period, p_feature, 0)
    on conflict (period, feature) do nothing;
    update usage_total set total = total + p_quantity, fully_claimed = false
    where period = p_period and feature = p_feature;
$$;

-- Books a batch of usage events, or refuses them one by one. Returns one word per event, in their
-- order: 'accepted', 'duplicate', 'conflict' or the code of the refusal. The outcome is the same as
-- if the events had come one after the other. A refused event leaves no trace, so its key is free.
--
-- The parameters are the columns of two tables. One is of distinct pairs: p_users, p_features. The
-- other is of events: p_pairs (the position of its pair), p_keys, p_firsts (the position of the
-- first event in the batch with the same user and key), p_quantities, p_occurred, p_fingerprints,
-- p_properties. p_statuses are the subscription statuses that give access.
create or replace function accept_usage(
    p_users text[], p_features text[],
    p_pairs integer[], p_keys text[], p_firsts integer[], p_quantities numeric[],
    p_occurred timestamptz[], p_fingerprints bytea[], p_properties text[],
    p_now timestamptz, p_statuses text[]
) returns text[]
language plpgsql
-- One generic plan serves all arrays. It must not scan whole tables: a connection keeps a plan that
-- was made while they were small.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    -- One element per pair.
    v_codes text[] := array_fill(null::text, array[cardinality(p_users)]);
    v_periods bigint[] := array_fill(null::bigint, array[cardinality(p_users)]);
    v_starts timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_users)]);
    v_limits numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_caps numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);  -- limit less held
    v_used numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_totals numeric[];  -- `used` as it grows with each accepted event
    -- One element per event.
    v_known bytea[] := array_fill(null::bytea, array[cardinality(p_keys)]);  -- at p_firsts[i]:
        -- the fingerprint that the user and key of event i were first booked with
    v_verdicts text[] := array_fill(null::text, array[cardinality(p_keys)]);
    v_reserved numeric[] := array_fill(0::numeric, array[cardinality(p_keys)]);  -- under its key
    -- Computed before the loop: an expression that depends on the time zone needs a snapshot each
    -- time.
    v_oldest timestamptz := p_now - interval '35 days';
    v_newest timestamptz := p_now + interval '5 minutes';
    v_ended boolean;
    v_any_pruned boolean;
    v_any_held boolean;
    v_any_accepted boolean;
    v_verdict text;
    v_total numeric;
    r record;
begin
    -- A statement of its own: in a join, rows that find no partner would not be locked.
    perform from users where id = any (p_users) order by id for no key update;

    loop
        v_ended := false;
        for r in
            select s.pair, s.code, s.period, s.starts_at, s.ends_at, s.used, s.cap, s.goes_on,
                   case when s.cap is not null then s.cap - s.held end as free
            from usage_standing(p_users, p_features, p_now, p_statuses) as s
        loop
            v_codes[r.pair] := r.code;
            v_periods[r.pair] := r.period;
            v_starts[r.pair] := r.starts_at;
            v_limits[r.pair] := r.cap;
            v_caps[r.pair] := r.free;
            v_used[r.pair] := r.used;
            v_ended := v_ended or (r.code is null and r.ends_at <= p_now and not r.goes_on);
        end loop;
        exit when not v_ended;
        perform roll_over_periods(p_users, p_now, p_statuses);
    end loop;

    for r in
        select e.first, l.fingerprint
        from unnest(p_pairs, p_keys, p_firsts) as e (pair, key, first)
        cross join lateral (
            select n.fingerprint from usage_event n
            where n.user_id = p_users[e.pair] and n.idempotency_key = e.key limit 1
        ) as l
    loop
        v_known[r.first] := r.fingerprint;
    end loop;
    -- In most calls there are no pruned keys and no reservations. Asking for both in one query is
    -- cheaper for a single event than two queries.
    select exists (select from usage_key),
           exists (select from usage_reservation where user_id = any (p_users) and state = 'held')
    into v_any_pruned, v_any_held;
    -- Keys of pruned entries are looked up after the ledger. So if pruning replaces an entry by its
    -- key meanwhile, one of the two look-ups still finds it.
    if v_any_pruned then
        for r in
            select e.first, k.fingerprint
            from unnest(p_pairs, p_keys, p_firsts, v_known) as e (pair, key, first, known)
            cross join lateral (
                select uuid_send(n.fingerprint) as fingerprint from usage_key n
                where n.key = usage_key_of(p_users[e.pair], e.key) limit 1
            ) as k
            where v_known[e.first] is null
        loop
            v_known[r.first] := r.fingerprint;
        end loop;
    end if;

    -- Reservations under the keys of the events themselves: an event may use what was reserved for
    -- it.
    if v_any_held then
        for r in
            select e.event, h.quantity
            from unnest(p_pairs, p_keys) with ordinality as e (pair, key, event)
            cross join lateral (
                select n.feature, n.quantity from usage_reservation n
                where n.idempotency_key = e.key and n.user_id = p_users[e.pair]
                  and n.state = 'held' and n.expires_at > p_now limit 1
            ) as h
            where h.feature = p_features[e.pair]
        loop
            v_reserved[r.event] := r.quantity;
        end loop;
    end if;

    v_totals := v_used;
    for i in 1 .. cardinality(p_keys) loop
        v_total := v_totals[p_pairs[i]] + p_quantities[i];
        v_verdict := case
            when v_known[p_firsts[i]] is not null then
                case when v_known[p_firsts[i]] = p_fingerprints[i] then 'duplicate'
                     else 'conflict' end
            when p_occurred[i] < v_oldest then 'too_old'
            when p_occurred[i] > v_newest then 'in_future'
            when v_codes[p_pairs[i]] is not null then v_codes[p_pairs[i]]
            -- An event may use the amount reserved under its own key even if other reservations
            -- fill the limit, as when the reservation is confirmed.
            when v_total > v_caps[p_pairs[i]] + v_reserved[i]
                 and (v_reserved[i] < p_quantities[i] or v_total > v_limits[p_pairs[i]])
                then 'limit_reached'
            when v_total > 999999999 and not fits_double(v_total) then 'total_too_large'
            else 'accepted'
        end;
        v_verdicts[i] := v_verdict;
        if v_verdict = 'accepted' then
            v_totals[p_pairs[i]] := v_total;
            v_known[p_firsts[i]] := p_fingerprints[i];
            if v_any_held then
                v_caps[p_pairs[i]] := v_caps[p_pairs[i]] + v_reserved[i];
            end if;
        end if;
    end loop;
    v_any_accepted := 'accepted' = any (v_verdicts);

    if v_any_accepted then
        with ledger as (
            insert into usage_event (
                user_id, idempotency_key, fingerprint, feature, quantity, occurred_at,
                booked_at, period, late, properties
            )
            select p_users[pair], key, fingerprint, p_features[pair], quantity,
                   coalesce(occurred_at, p_now), p_now, v_periods[pair],
                   coalesce(occurred_at < v_starts[pair], false), properties::jsonb
            from unnest(
                v_verdicts, p_pairs, p_keys, p_quantities, p_occurred, p_fingerprints, p_properties
            ) as e (verdict, pair, key, quantity, occurred_at, fingerprint, properties)
            where verdict = 'accepted'
        ),
        growth as (
            select period, feature, total - used as quantity
            from unnest(v_periods, p_features, v_totals, v_used) as g (period, feature, total, used)
            where total > used
            -- Every statement that locks several totals locks them in this order, so no two
            -- deadlock.
            order by period, feature
        ),
        daily as (
            insert into usage_daily as d (period, feature, day, quantity)
            select period, feature, (p_now at time zone 'UTC')::date, quantity
            from growth
            on conflict (period, feature, day) do update set
                quantity = d.quantity + excluded.quantity
        )
        insert into usage_total as t (period, feature, total)
        select period, feature, quantity
        from growth
        on conflict (period, feature) do update set
            total = t.total + excluded.total, fully_claimed = false;
    end if;
    -- An accepted event ends the reservation under its key, as confirming would.
    if v_any_accepted and v_any_held then
        update usage_reservation h set
            state = 'confirmed', booked = e.quantity, concluded_at = p_now
        from unnest(v_verdicts, p_pairs, p_keys, p_quantities) as e (verdict, pair, key, quantity)
        where e.verdict = 'accepted' and h.idempotency_key = e.key
          and h.user_id = p_users[e.pair] and h.feature = p_features[e.pair] and h.state = 'held';
    end if;
    return v_verdicts;
end
$$;
