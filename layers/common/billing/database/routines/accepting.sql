-- Accepting usage. The rules of locking are at the top of tables/0004_usage.sql.

-- Returns whether a number reaches Commet unchanged: whether it has at most 15 significant digits.
-- Commet reads JSON numbers as doubles, which keep any 15 digits.
create or replace function fits_double(p_number numeric) returns boolean
language sql immutable as $$
    select abs(p_number) < power(10::numeric, 15 - min_scale(p_number))
$$;

-- Returns whether a total would be larger than the largest quantity.
create or replace function is_too_large(p_total numeric) returns boolean
language sql immutable as $$
    select p_total > 999999999999999
$$;

-- Returns what users may use of features now, and what they have used: one row for each pair of
-- p_users and p_features, numbered by `pair`.
--   code     why usage of any quantity is refused; null if it is not
--   cap      the limit of `used`; null if unlimited, or if overage is billed
--   cap_code why usage above the cap is refused
--   held     the quantity of reservations that count against the limit
--   used_before  used in free periods that were left early; uses up `included` of a free plan too
--   carried  counted in an earlier period and booked by Commet in this one; uses up `included` too
--   goes_on  the known end of the subscription or of its plan has passed, and Commet has not said
--            what follows
--   settled_from  usage that occurred before `settled_from` may belong to a trial or free plan, or to
--            no period because the subscription was paused (late.sql)
--   look_at, spend_look_at  once `used`, or the amount spent, reaches this, the caller checks which
--            thresholds are reached (thresholds.sql); null if no threshold lies ahead
-- If the open period has ended, the row has its dates, and `used` and `carried` are 0: nothing has
-- been used yet in the period that follows.
-- For at most a day after its known end, a subscription may go on. The user may then use the rest
-- of the old period, without overage, while Commet's last answer is at most a minute old. After a
-- booked change to another plan the same holds, without the limit of a day, because the user has a
-- subscription in any case.
-- `limit 1` changes no result. It makes each look-up one probe of an index per pair. Without it, a
-- planner that has no statistics joins whole tables.
create or replace function usage_standing(
    p_users text[], p_features text[], p_now timestamptz, p_statuses text[]
) returns table (
    pair bigint, feature text, code text, name text, unit text,
    period bigint, starts_at timestamptz, ends_at timestamptz, used numeric, included numeric,
    unlimited boolean, overage boolean, cap numeric, cap_code text, unit_price numeric,
    currency text, held numeric, carried numeric, used_before numeric, goes_on boolean,
    settled_from timestamptz, look_at numeric, spend_look_at numeric
)
language sql stable as $$
    select
        q.pair, q.feature,
        case
            when u.id is null then 'unknown_user'
            when u.is_erased then 'subscription_required'
            when s.status is null or s.status <> all (p_statuses) then 'subscription_required'
            when s.is_over then 'subscription_required'
            when s.ended_for is not null and not s.asked_since then 'access_unconfirmed'
            when e.granted and not e.metered then 'feature_not_metered'
            when p.id is null and (
                e.granted or not exists (
                    select from entitlements n where n.user_id = q.user_id and n.allowed
                )
            -- paid, but Commet has not sent the entitlements or the period
            ) then 'access_unconfirmed'
            when e.granted is not true then 'feature_not_in_plan'
        end,
        e.name, e.unit, p.id, p.starts_at, p.ends_at, coalesce(t.total, 0),
        e.included, coalesce(e.unlimited, false), coalesce(e.overage, false),
        case when not e.unlimited and not e.overage
             then coalesce(e.included, 0) - coalesce(t.carried, 0) - b.used end,
        case when s.pays and e.overage_enabled then 'payment_overdue' else 'limit_reached' end,
        e.unit_price, e.currency,
        -- The planner computes this sum only for a caller that reads `held`. accept_usage reads it
        -- only if there is a limit.
        (
            select coalesce(sum(r.quantity), 0)
            from usage_reservation r
            where r.user_id = q.user_id and r.feature = q.feature and r.state = 'held'
              and r.expires_at > p_now
        ),
        coalesce(t.carried, 0), b.used,
        s.ended_for is not null,
        greatest(p.paid_from, s.resumed_at),
        case when t.period is null then 0 else t.look_at - t.carried - b.used end,
        p.spend_look_at
    from unnest(p_users, p_features) with ordinality as q (user_id, feature, pair)
    left join lateral (
        select n.id, not n.has_dispute and not n.has_debt as in_good_standing,
               n.erased_at is not null as is_erased
        from users n where n.id = q.user_id limit 1
    ) as u on true
    left join lateral (
        -- `pays`: overage can be billed. It never is in a trial, on a free plan, or past the known
        -- end of the plan. `billed`: overage is given, which also requires good standing.
        select
            n.status, n.billing_interval, n.resumed_at, k.ended_for, k.is_over, k.pays,
            k.pays and n.status = 'active' and u.in_good_standing as billed,
            -- `asked_since`: Commet confirmed the row after its known end, and in the last minute.
            -- The expression compares two ages, because p_now may be the time of a test clock.
            coalesce(now() - n.confirmed_at < least(k.ended_for, interval '1 minute'), false)
                as asked_since
        from current_subscription n
        cross join lateral (
            select case when e.ends_at <= p_now then p_now - e.ends_at end as ended_for,
                   coalesce(known_end(
                       n.status, n.cancel_at_period_end, n.period_end, n.trial_ends_at
                   ) <= p_now - interval '1 day', false) as is_over,
                   n.status <> 'trialing' and n.billing_interval is not null
                   and (e.ends_at <= p_now) is not true as pays
            from plan_end(
                n.status, n.cancel_at_period_end, n.period_end, n.trial_ends_at, n.plan_id,
                n.scheduled_change
            ) as e (ends_at)
        ) as k
        where n.user_id = q.user_id limit 1
    ) as s on true
    left join lateral (
        select
            n.name, n.unit, n.included, n.unlimited, n.unit_price, n.currency,
            n.type = 'usage' and n.model is not distinct from 'metered' as metered,
            -- Commet says "not allowed" also when the included quantity is used up. In that case
            -- the plan has the feature (`granted`), and the cap refuses the usage.
            n.allowed or (
                n.included > 0 and not n.unlimited and not (n.overage_enabled and s.billed)
            ) as granted,
            n.overage_enabled and s.billed as overage, n.overage_enabled
        from entitlements n
        where n.user_id = q.user_id and n.feature = q.feature limit 1
    ) as e on true
    left join lateral (
        select n.id, n.starts_at, n.ends_at, n.paid_from, n.spend_look_at from usage_period n
        where n.user_id = q.user_id and n.closed_at is null limit 1
    ) as p on true
    left join lateral (
        select n.period, n.total, n.carried, n.look_at
        from usage_total n
        where n.period = p.id and n.feature = q.feature
          and (p.ends_at > p_now or s.ended_for is not null)
        limit 1
    ) as t on true
    cross join lateral (
        select case when s.billing_interval is null
                    then used_before_of(p.id, q.feature, p_now) else 0 end as used
    ) as b
$$;

-- Locks one user, and returns what the user may use of one feature in the period that contains
-- p_now (the columns are those of usage_standing). If the open period has ended, opens the
-- following period first.
create or replace function lock_standing(
    p_user text, p_feature text, p_now timestamptz, p_statuses text[],
    out code text, out period bigint, out ends_at timestamptz, out used numeric, out cap numeric,
    out cap_code text, out held numeric, out carried numeric, out goes_on boolean
)
language plpgsql as $$
begin
    perform from users where id = p_user for no key update;
    loop
        select s.code, s.period, s.ends_at, s.used, s.cap, s.cap_code, s.held, s.carried, s.goes_on
        into code, period, ends_at, used, cap, cap_code, held, carried, goes_on
        from usage_standing(array[p_user], array[p_feature], p_now, p_statuses) as s;
        exit when code is not null or ends_at > p_now or goes_on;
        perform roll_over_periods(array[p_user], p_now, p_statuses);
    end loop;
end
$$;

-- Returns the UTC day on which usage of p_at counts in a period: the day on which it occurred, or the
-- first or last day of the period if it occurred outside the period.
create or replace function day_of_use(p_starts timestamptz, p_ends timestamptz, p_at timestamptz)
returns date
language sql stable as $$
    select (greatest(least(p_at, p_ends - interval '1 microsecond'), p_starts) at time zone 'UTC')::date
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
    insert into usage_daily as d (period, feature, day, quantity, late, corrected)
    select p.id, p_feature, day_of_use(p.starts_at, p.ends_at, p_occurred), p_quantity,
           case when p_late then p_quantity else 0 end,
           case when p_kind = 'correction' then p_quantity else 0 end
    from usage_period p
    where p.id = p_period
    on conflict (period, feature, day) do update set
        quantity = d.quantity + excluded.quantity, late = d.late + excluded.late,
        corrected = d.corrected + excluded.corrected;
    -- Two statements, because p_quantity may be below zero: an insert of a negative total would
    -- violate the check on `total` before Postgres noticed that the row exists.
    insert into usage_total (period, feature, total) values (p_period, p_feature, 0)
    on conflict (period, feature) do nothing;
    update usage_total t set
        total = t.total + p_quantity, fully_claimed = false,
        withheld = case when p.closed_at is not null and is_unbilled(p)
                        then greatest(t.total + p_quantity - t.claimed, 0)
                        else t.withheld end
    from usage_period p
    where t.period = p_period and t.feature = p_feature and p.id = p_period;
    select tell_thresholds(p_user, t.period, t.feature, p_now)
    from usage_total t
    join usage_period p on p.id = t.period
    where t.period = p_period and t.feature = p_feature
      and (p_quantity < 0 or used_in(p, p_feature, p_now) >= t.look_at);
$$;

-- Books a batch of usage events, or refuses them one by one. Returns one word per event, in their
-- order: 'accepted', 'duplicate', 'conflict' or the code of the refusal. The outcome is the same as
-- if the events had come one after the other. A refused event leaves no trace, so its key is free.
--
-- The parameters are the columns of two tables.
-- Distinct pairs: p_users, p_features, p_payers (the position of the first pair of the same user).
-- Events: p_pairs (the position of the event's pair), p_keys, p_firsts (the position of the first
-- event in the batch with the same user, feature and key), p_quantities, p_occurred,
-- p_fingerprints, p_properties.
-- p_statuses are the subscription statuses that give access. p_grace is how long after the end of
-- access the routine takes usage that occurred before that end. p_spending: see spending.sql.
-- The routine reads the cost of overage only if an event goes beyond the included quantity.
create or replace function accept_usage(
    p_users text[], p_features text[], p_payers integer[],
    p_pairs integer[], p_keys text[], p_firsts integer[], p_quantities numeric[],
    p_occurred timestamptz[], p_fingerprints bytea[], p_properties text[],
    p_now timestamptz, p_statuses text[], p_spending jsonb, p_grace interval
) returns text[]
language plpgsql
-- One generic plan serves arrays of every length. It must not scan whole tables: a connection keeps
-- using a plan that was made while the tables were small.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    -- One element per pair.
    v_codes text[] := array_fill(null::text, array[cardinality(p_users)]);
    v_periods bigint[] := array_fill(null::bigint, array[cardinality(p_users)]);
    v_starts timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_users)]);
    v_ends timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_users)]);
    v_limits numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_caps numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);  -- limit less held
    v_cap_codes text[] := array_fill(null::text, array[cardinality(p_users)]);
    v_beyond numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);  -- overage above
    v_prices numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);  -- of one unit
    v_used numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_look_at numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_spend_look_at numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_totals numeric[];  -- `used` as it grows with each accepted event
    -- One element per pair. Null, except at the first pair of each user who may have overage.
    v_paying text[];  -- the user; null as a whole until overage is read
    v_spent numeric[];
    v_unclaimed numeric[];
    v_by_default numeric[];
    v_ceilings numeric[];
    v_at_once numeric[];
    v_currencies text[];
    -- One element per event.
    v_settled timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_users)]);
        -- usage that occurred before `v_settled` belongs to another period, or to none
    v_withheld boolean[] := array_fill(false, array[cardinality(p_users)]);
    v_closed boolean[] := array_fill(false, array[cardinality(p_users)]);
    v_places jsonb := '{}';  -- the pairs that were added, by pair, period and code; the first of
        -- them by user and period
    v_place text;
    v_pair integer;
    v_known bytea[] := array_fill(null::bytea, array[cardinality(p_keys)]);  -- at p_firsts[i]:
        -- the fingerprint that user, feature and key of event i were first booked with
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
    v_cost numeric;
    v_payer integer;
    v_spending numeric;  -- `v_spent` of the payer if the event is accepted
    v_spendings refcursor;
    -- Of the last user whose overage was read: the currency of the prices and of the amounts, and
    -- the operator's amounts in it. Users mostly have one currency.
    v_priced_in text;
    v_currency text;
    v_ceiling numeric;
    v_once numeric;
    r record;
begin
    -- A statement of its own: a join would not lock users for whom it finds no other row.
    perform from users where id = any (p_users) order by id for no key update;

    loop
        v_ended := false;
        for r in
            select s.pair, s.code, s.period, s.starts_at, s.ends_at, s.used, s.cap, s.cap_code,
                   s.unit_price, s.goes_on, s.settled_from, s.look_at, s.spend_look_at,
                   case when s.cap is not null then s.cap - s.held end as free,
                   case when s.overage and not s.unlimited
                        then coalesce(s.included, 0) - s.carried end as beyond
            from usage_standing(p_users, p_features, p_now, p_statuses) as s
        loop
            v_codes[r.pair] := r.code;
            v_periods[r.pair] := r.period;
            v_starts[r.pair] := r.starts_at;
            v_ends[r.pair] := r.ends_at;
            v_limits[r.pair] := r.cap;
            v_caps[r.pair] := r.free;
            v_cap_codes[r.pair] := r.cap_code;
            v_beyond[r.pair] := r.beyond;
            v_prices[r.pair] := r.unit_price * 0.0001;
            v_used[r.pair] := r.used;
            v_look_at[r.pair] := r.look_at;
            v_spend_look_at[r.pair] := r.spend_look_at;
            v_settled[r.pair] := case
                when r.code is null then greatest(r.starts_at, r.settled_from)
                when r.code = 'feature_not_in_plan' then r.starts_at
                when r.code in ('subscription_required', 'access_unconfirmed') then 'infinity'
            end;
            v_ended := v_ended or (r.code is null and r.ends_at <= p_now and not r.goes_on);
        end loop;
        exit when not v_ended;
        perform roll_over_periods(p_users, p_now, p_statuses);
    end loop;

    -- Usage of a period that is over is checked against that period, as an additional pair.
    for i in 1 .. cardinality(p_keys) loop
        if p_occurred[i] < v_settled[p_pairs[i]] and p_occurred[i] >= v_oldest then
            v_pair := p_pairs[i];
            for r in
                select l.code, l.period, l.starts_at, l.ends_at, l.used, l.cap, l.cap_code, l.held,
                       l.beyond, l.unit_price,
                       coalesce(is_unbilled(p) and p.closed_at is not null, false) as withheld,
                       coalesce(p.closed_at is not null, false) as closed
                from late_place(
                    p_users[v_pair], p_features[v_pair], p_occurred[i], v_periods[v_pair],
                    v_codes[v_pair], p_now, p_statuses, p_grace
                ) as l
                left join usage_period p on p.id = l.period
            loop
                v_place := concat_ws(':', v_pair, r.period, r.code);
                if not v_places ? v_place then
                    p_users := p_users || p_users[v_pair];
                    p_features := p_features || p_features[v_pair];
                    v_codes := v_codes || r.code;
                    v_periods := v_periods || r.period;
                    v_starts := v_starts || r.starts_at;
                    v_ends := v_ends || r.ends_at;
                    v_limits := v_limits || r.cap;
                    v_caps := v_caps || r.cap - r.held;
                    v_cap_codes := v_cap_codes || r.cap_code;
                    v_beyond := v_beyond || r.beyond;
                    v_prices := v_prices || r.unit_price * 0.0001;
                    v_used := v_used || r.used;
                    v_withheld := v_withheld || r.withheld;
                    v_closed := v_closed || r.closed;
                    v_settled := v_settled || null::timestamptz;
                    -- The thresholds of this period are always compared.
                    v_look_at := v_look_at || 0::numeric;
                    v_spend_look_at := v_spend_look_at || 0::numeric;
                    v_places := jsonb_build_object(
                        concat_ws(':', 'first', p_users[v_pair], r.period), cardinality(p_users)
                    ) || v_places || jsonb_build_object(v_place, cardinality(p_users));
                    p_payers := p_payers
                        || (v_places->>concat_ws(':', 'first', p_users[v_pair], r.period))::integer;
                end if;
                p_pairs[i] := (v_places->>v_place)::integer;
            end loop;
        end if;
    end loop;

    for r in
        select e.first, l.fingerprint
        from unnest(p_pairs, p_keys, p_firsts) as e (pair, key, first)
        cross join lateral (
            select n.fingerprint from usage_event n
            where n.user_id = p_users[e.pair] and n.idempotency_key = e.key
              and n.feature = p_features[e.pair]
            limit 1
        ) as l
    loop
        v_known[r.first] := r.fingerprint;
    end loop;
    -- In most calls there are no pruned keys and no reservations. For a single event, one query for
    -- both is cheaper than two queries.
    select exists (select from usage_key),
           exists (select from usage_reservation where user_id = any (p_users) and state = 'held')
    into v_any_pruned, v_any_held;
    -- Keys of pruned entries are looked up after the ledger. If pruning replaces an entry by its
    -- key between the two look-ups, the second one finds the key.
    if v_any_pruned then
        for r in
            select e.first, k.fingerprint
            from unnest(p_pairs, p_keys, p_firsts, v_known) as e (pair, key, first, known)
            cross join lateral (
                select uuid_send(n.fingerprint) as fingerprint from usage_key n
                where n.key = usage_key_of(p_users[e.pair], p_features[e.pair], e.key) limit 1
            ) as k
            where v_known[e.first] is null
        loop
            v_known[r.first] := r.fingerprint;
        end loop;
    end if;

    -- Read the reservations that have the key of an event of this batch: an event may use the
    -- quantity reserved under its key.
    if v_any_held then
        for r in
            select e.event, h.quantity
            from unnest(p_pairs, p_keys) with ordinality as e (pair, key, event)
            cross join lateral (
                select n.quantity from usage_reservation n
                where n.idempotency_key = e.key and n.user_id = p_users[e.pair]
                  and n.feature = p_features[e.pair] and n.state = 'held'
                  and n.expires_at > p_now
                limit 1
            ) as h
        loop
            v_reserved[r.event] := r.quantity;
        end loop;
        -- A held reservation counts at its cost, as if it were used.
        for r in
            select q.pair, sum(n.quantity) as held
            from unnest(p_users, p_features, v_beyond) with ordinality
                 as q (user_id, feature, beyond, pair)
            join usage_reservation n on n.user_id = q.user_id and n.feature = q.feature
                and n.state = 'held' and n.expires_at > p_now
            where q.beyond is not null
            group by q.pair
        loop
            v_beyond[r.pair] := v_beyond[r.pair] - r.held;
        end loop;
    end if;

    v_totals := v_used;
    for i in 1 .. cardinality(p_keys) loop
        v_pair := p_pairs[i];
        v_total := v_totals[v_pair] + p_quantities[i];
        v_cost := 0;
        if v_total > v_beyond[v_pair] then
            if v_paying is null then
                v_paying := array_fill(null::text, array[cardinality(p_users)]);
                v_spent := array_fill(null::numeric, array[cardinality(p_users)]);
                v_unclaimed := v_spent;
                v_by_default := v_spent;
                v_ceilings := v_spent;
                v_at_once := v_spent;
                v_currencies := v_paying;
                for j in 1 .. cardinality(p_users) loop
                    if v_beyond[j] is not null then
                        v_paying[p_payers[j]] := p_users[j];
                    end if;
                end loop;
                if true = any (v_closed) then
                    open v_spendings for
                        select s.user_at, s.spent, s.unclaimed, s.currency, s.product_limit,
                               s.own_limit, s.is_due
                        from spending_of(v_paying, v_periods) as s
                        where not v_closed[s.user_at]
                        union all
                        select s.user_at, s.spent, s.unclaimed, s.currency, s.product_limit,
                               s.own_limit, s.is_due
                        from spending_of_closed(v_paying, v_periods) as s
                        where v_closed[s.user_at];
                else
                    open v_spendings for
                        select s.user_at, s.spent, s.unclaimed, s.currency, s.product_limit,
                               s.own_limit, s.is_due
                        from spending_of(v_paying, v_periods) as s;
                end if;
                loop
                    fetch v_spendings into r;
                    exit when not found;
                    if v_currency is null or r.currency is distinct from v_priced_in then
                        v_priced_in := r.currency;
                        v_currency := overage_currency(r.currency, p_spending);
                        v_ceiling := default_ceiling(p_spending, v_currency);
                        v_once := p_spending->'at_once'->>v_currency;
                    end if;
                    v_spent[r.user_at] := r.spent;
                    v_unclaimed[r.user_at] := r.unclaimed;
                    v_by_default[r.user_at] := v_ceiling;
                    v_ceilings[r.user_at] := ceiling_of(r.product_limit, v_ceiling, r.own_limit);
                    v_at_once[r.user_at] := case when r.is_due then 0 else v_once end;
                    v_currencies[r.user_at] := v_currency;
                end loop;
                close v_spendings;
                if v_any_held then
                    for r in
                        select h.user_at, h.cost
                        from held_overage_of(v_paying, v_periods, p_now) as h
                    loop
                        v_spent[r.user_at] := v_spent[r.user_at] + r.cost;
                    end loop;
                end if;
            end if;
            -- An accepted event ends the reservation under its key.
            v_cost := v_prices[v_pair] * (
                greatest(0, v_total - v_beyond[v_pair] - v_reserved[i])
                - greatest(0, v_totals[v_pair] - v_beyond[v_pair])
            );
            v_payer := p_payers[v_pair];
            v_spending := v_spent[v_payer] + v_cost;
        end if;
        v_verdict := case
            when v_known[p_firsts[i]] is not null then
                case when v_known[p_firsts[i]] = p_fingerprints[i] then 'duplicate'
                     else 'conflict' end
            when p_occurred[i] < v_oldest then 'too_old'
            when p_occurred[i] > v_newest then 'in_future'
            when v_codes[v_pair] is not null then v_codes[v_pair]
            -- An event may use the amount reserved under its own key even if other reservations
            -- fill the limit, as when the reservation is confirmed.
            when v_total > v_caps[v_pair] + v_reserved[i]
                 and (v_reserved[i] < p_quantities[i] or v_total > v_limits[v_pair])
                then v_cap_codes[v_pair]
            when v_cost is null then 'price_unknown'
            when v_cost > 0 and v_spending > v_ceilings[v_payer] then 'spend_limit_reached'
            when is_too_large(v_total) then 'total_too_large'
            else 'accepted'
        end;
        v_verdicts[i] := v_verdict;
        if v_verdict = 'accepted' then
            v_totals[v_pair] := v_total;
            v_known[p_firsts[i]] := p_fingerprints[i];
            if v_any_held then
                v_caps[v_pair] := v_caps[v_pair] + v_reserved[i];
                v_beyond[v_pair] := v_beyond[v_pair] + v_reserved[i];
            end if;
            if v_cost <> 0 then
                v_spent[v_payer] := v_spending;
                v_unclaimed[v_payer] := v_unclaimed[v_payer] + v_cost;
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
            select period, feature, total - used as quantity,
                   case when withheld then total - used else 0 end as withheld
            from unnest(v_periods, p_features, v_totals, v_used, v_withheld)
                 as g (period, feature, total, used, withheld)
            where total > used
            -- Every statement that locks several totals locks them in this order, so no two
            -- deadlock.
            order by period, feature
        ),
        daily as (
            insert into usage_daily as d (period, feature, day, quantity, late)
            select v_periods[e.pair], p_features[e.pair],
                   day_of_use(
                       v_starts[e.pair], v_ends[e.pair], coalesce(e.occurred_at, p_now)
                   ) as day,
                   sum(e.quantity),
                   coalesce(
                       sum(e.quantity) filter (where e.occurred_at < v_starts[e.pair]), 0
                   )
            from unnest(v_verdicts, p_pairs, p_quantities, p_occurred)
                 as e (verdict, pair, quantity, occurred_at)
            where e.verdict = 'accepted'
            group by e.pair, day
            on conflict (period, feature, day) do update set
                quantity = d.quantity + excluded.quantity, late = d.late + excluded.late
        )
        insert into usage_total as t (period, feature, total, withheld)
        select period, feature, quantity, withheld
        from growth
        on conflict (period, feature) do update set
            total = t.total + excluded.total,
            withheld = case when excluded.withheld > 0
                            then greatest(t.total + excluded.total - t.claimed, 0)
                            else t.withheld end,
            fully_claimed = false;
    end if;
    -- An accepted event ends the reservation under its key, as confirming would.
    if v_any_accepted and v_any_held then
        update usage_reservation h set
            state = 'confirmed', booked = e.quantity, concluded_at = p_now
        from unnest(v_verdicts, p_pairs, p_keys, p_quantities) as e (verdict, pair, key, quantity)
        where e.verdict = 'accepted' and h.idempotency_key = e.key
          and h.user_id = p_users[e.pair] and h.feature = p_features[e.pair] and h.state = 'held';
    end if;
    if v_paying is not null then
        for i in 1 .. cardinality(v_paying) loop
            if is_overage_notable(v_spent[i], v_unclaimed[i], v_by_default[i], v_at_once[i]) then
                perform note_overage(
                    p_users, v_spent, v_unclaimed, v_by_default, v_at_once, v_currencies, p_now
                );
                exit;
            end if;
        end loop;
    end if;

    -- Of a period that is closed, both routines tell nothing.
    if v_any_accepted then
        for i in 1 .. cardinality(v_look_at) loop
            if v_totals[i] >= v_look_at[i] and v_totals[i] > v_used[i] then
                perform tell_thresholds(p_users[i], v_periods[i], p_features[i], p_now);
            end if;
        end loop;
    end if;
    if v_any_accepted and v_paying is not null then
        for i in 1 .. cardinality(v_spend_look_at) loop
            if v_spent[i] >= v_spend_look_at[i] then
                perform tell_spending(v_paying[i], v_periods[i], p_now, p_spending);
            end if;
        end loop;
    end if;
    return v_verdicts;
end
$$;
