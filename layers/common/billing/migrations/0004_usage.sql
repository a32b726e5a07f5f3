-- Usage: the ledger, its running totals, and what of them has been sent to Commet.
--
-- One writer per user: whoever changes what is counted for a user first locks that user's row,
-- always several in the order of their ids, as record_news does. Under that lock nothing about
-- the user moves, so limits, duplicates and periods are decided by reading, and no two batches can
-- deadlock. Deliveries are claimed without it: they never wait for anybody (skip locked).

-- The ledger. The key is the caller's own, so sending an event again finds the first one.
-- No foreign keys: the lock above already guarantees what they would check, and the check of the
-- period alone took 6 ms of a batch of 1,000 that takes 20 without it.
create table usage_event (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,
    fingerprint     bytea not null,           -- of what the caller supplied
    feature         text collate "C" not null,
    quantity        numeric(15,6) not null,
    occurred_at     timestamptz not null,
    booked_at       timestamptz not null,
    period          bigint not null,          -- usage_period.id
    late            boolean not null,         -- occurred before that period
    kind            text not null default 'event' check (kind in ('event', 'correction', 'confirm')),
    reason          text,
    author          text,
    properties      jsonb,
    primary key (user_id, idempotency_key)
);

-- What the ledger adds up to. A hot row, updated in place (HOT): no index may cover total or
-- claimed. `settled` changes once in the life of a row, so an index on it costs nothing and keeps
-- the search for growth away from every period that is over and done.
create table usage_total (
    period     bigint not null references usage_period (id),
    feature    text collate "C" not null,
    total      numeric(21,6) not null check (total >= 0),
    claimed    numeric(21,6) not null default 0,
    seq        integer not null default 0,        -- of the newest delivery
    claimed_at timestamptz,
    settled    boolean not null default false,    -- period closed, everything claimed
    primary key (period, feature)
) with (fillfactor = 70);
create index usage_total_unsettled on usage_total (period, feature) where not settled;

-- By the UTC day of booking; sums exactly to the total.
create table usage_daily (
    period   bigint not null,
    feature  text collate "C" not null,
    day      date not null,
    quantity numeric(21,6) not null,
    primary key (period, feature, day)
) with (fillfactor = 70);

create table usage_delivery (
    period          bigint not null,
    feature         text collate "C" not null,
    seq             integer not null,
    user_id         text collate "C" not null,
    quantity        numeric(21,6) not null,
    event_id        text collate "C" not null,    -- what Commet counts it once by; never changes
    generation      integer not null default 1,   -- with event_id: the idempotency key
    body            text not null,                -- JSON, sent as it is every time
    state           text not null default 'pending' check (state in ('pending', 'sent', 'parked')),
    reason          text,                         -- why it is parked
    claimed_at      timestamptz not null default now(),
    due_at          timestamptz not null default now(),
    attempts        integer not null default 0,
    uncertain_since timestamptz,                  -- first attempt whose outcome we may not know
    sent_at         timestamptz,
    remote_id       text,
    billed_period   bigint,                       -- where Commet booked it, once known
    primary key (period, feature, seq)
);
create index usage_delivery_due on usage_delivery (due_at) where state = 'pending';
create index usage_delivery_parked on usage_delivery (user_id) where state = 'parked';

-- Whether a number reaches Commet unchanged: it reads JSON numbers as doubles, which keep any 15
-- significant digits.
create function fits_double(p_number numeric) returns boolean
language sql immutable as $$
    select abs(p_number) < power(10::numeric, 15 - min_scale(p_number))
$$;

-- The same moment a month later, on the given day of the month or the last one it has.
create function month_after(p_moment timestamptz, p_day integer) returns timestamptz
language sql immutable as $$
    select (
        m.first
        + make_interval(days => least(
            p_day, extract(day from m.first + interval '1 month' - interval '1 day')::integer
        ) - 1)
        + (p_moment at time zone 'UTC')::time
    ) at time zone 'UTC'
    from (
        select date_trunc('month', p_moment at time zone 'UTC') + interval '1 month' as first
    ) as m
$$;

-- The allowance period that holds p_now, following one that has ended: a week where that one was
-- a week, else a month. Months run from the day the plan is anchored to, of which a short month
-- hides the 29th to 31st; of two neighbouring dates one always shows it.
create function following_period(
    p_start timestamptz, p_end timestamptz, p_now timestamptz,
    out starts_at timestamptz, out ends_at timestamptz
)
language plpgsql immutable as $$
declare
    v_weekly boolean := p_end - p_start = interval '7 days';
    v_day integer := greatest(
        extract(day from p_start at time zone 'UTC'), extract(day from p_end at time zone 'UTC')
    );
begin
    if month_after(p_start, v_day) <> p_end then
        v_day := extract(day from p_end at time zone 'UTC');  -- a trial, or another broken month
    end if;
    ends_at := p_end;
    loop
        starts_at := ends_at;
        ends_at := case when v_weekly then starts_at + interval '168 hours'
                        else month_after(starts_at, v_day) end;
        exit when ends_at > p_now;
    end loop;
end
$$;

-- Closes periods that have ended and opens the next, provisionally: acceptance does not wait for
-- Commet. Only with access, and only under the users' locks.
create function roll_over_periods(p_users text[], p_now timestamptz, p_statuses text[])
returns void
language plpgsql as $$
declare
    v_ended usage_period;
begin
    for v_ended in
        select p.*
        from usage_period p
        where p.user_id = any (p_users) and p.closed_at is null and p.ends_at <= p_now
          and (select s.status from current_subscription s where s.user_id = p.user_id)
              = any (p_statuses)
    loop
        update usage_period set closed_at = p_now where id = v_ended.id;
        insert into usage_period (
            user_id, subscription_id, plan_id, starts_at, ends_at, provisional
        )
        select v_ended.user_id, v_ended.subscription_id, v_ended.plan_id, n.starts_at, n.ends_at, true
        from following_period(v_ended.starts_at, v_ended.ends_at, p_now) as n;
    end loop;
end
$$;

-- How users stand with features right now: one row per pair asked for, numbered as asked. `code`
-- says why usage of any amount is refused; `cap` is the limit where nothing beyond it is billed.
-- A period that has ended shows as it is; nothing has been used yet in the one that follows.
-- The limits of 1 change no answer: they hold each look-up to one probe of an index per pair, where
-- a planner without statistics would rather join whole tables.
create function usage_standing(
    p_users text[], p_features text[], p_now timestamptz, p_statuses text[]
) returns table (
    pair bigint, feature text, code text, name text, unit text,
    period bigint, starts_at timestamptz, ends_at timestamptz, used numeric, included numeric,
    unlimited boolean, overage boolean, cap numeric, unit_price numeric, currency text
)
language sql stable as $$
    select
        q.pair, q.feature,
        case
            when u.id is null then 'unknown_user'
            when s.status is null or s.status <> all (p_statuses) then 'subscription_required'
            when e.granted and not e.metered then 'feature_not_metered'
            when p.id is null and (
                e.granted or not exists (
                    select from entitlements n where n.user_id = q.user_id and n.allowed
                )
            ) then 'access_unconfirmed'  -- paid, and the news of what for are still on their way
            when e.granted is not true then 'feature_not_in_plan'
        end,
        e.name, e.unit, p.id, p.starts_at, p.ends_at,
        case when p.ends_at > p_now then coalesce(t.total, 0) else 0 end,
        e.included, coalesce(e.unlimited, false), coalesce(e.overage, false),
        case when not e.unlimited and not e.overage then coalesce(e.included, 0) end,
        e.unit_price, e.currency
    from unnest(p_users, p_features) with ordinality as q (user_id, feature, pair)
    left join lateral (
        select n.id from users n where n.id = q.user_id limit 1
    ) as u on true
    left join lateral (
        select n.status, n.billing_interval from current_subscription n
        where n.user_id = q.user_id limit 1
    ) as s on true
    left join lateral (
        select
            n.name, n.unit, n.included, n.unlimited, n.unit_price, n.currency,
            n.type = 'usage' and n.model is not distinct from 'metered' as metered,
            -- Commet says "not allowed" of a used-up allowance too, which is a limit, not a lack.
            n.allowed or (n.included > 0 and not n.unlimited and not n.overage_enabled) as granted,
            -- Neither a trial nor a free plan is ever billed for more.
            n.overage_enabled and s.status <> 'trialing' and s.billing_interval is not null
                as overage
        from entitlements n
        where n.user_id = q.user_id and n.feature = q.feature limit 1
    ) as e on true
    left join lateral (
        select n.id, n.starts_at, n.ends_at from usage_period n
        where n.user_id = q.user_id and n.closed_at is null limit 1
    ) as p on true
    left join lateral (
        select n.total from usage_total n where n.period = p.id and n.feature = q.feature limit 1
    ) as t on true
$$;

-- Takes usage: ledger rows and their totals, or a refusal, for each event in the order given; the
-- same as taking them one by one. Answers one word per event: 'accepted', 'duplicate', 'conflict'
-- or the code of the refusal. A refused event leaves no trace, so its key is free.
--
-- What is asked comes as two tables. Pairs, all distinct: p_users, p_features. Events: p_pairs
-- (which pair it is of), p_keys, p_firsts (the first event in here with the same user and key),
-- p_quantities, p_occurred, p_fingerprints, p_properties.
create function accept_usage(
    p_users text[], p_features text[],
    p_pairs integer[], p_keys text[], p_firsts integer[], p_quantities numeric[],
    p_occurred timestamptz[], p_fingerprints bytea[], p_properties text[],
    p_now timestamptz, p_statuses text[]
) returns text[]
language plpgsql
-- The shape of these arrays says nothing worth planning for, and a plan made while the tables
-- were small must not scan them once they are large.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    -- by pair
    v_codes text[] := array_fill(null::text, array[cardinality(p_users)]);
    v_periods bigint[] := array_fill(null::bigint, array[cardinality(p_users)]);
    v_starts timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_users)]);
    v_caps numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    v_totals numeric[] := array_fill(null::numeric, array[cardinality(p_users)]);
    -- by event
    v_known bytea[] := array_fill(null::bytea, array[cardinality(p_keys)]);
    v_verdicts text[] := array_fill(null::text, array[cardinality(p_keys)]);
    v_ended boolean;
    v_any boolean := false;
    v_verdict text;
    v_total numeric;
    r record;
begin
    -- A statement of its own: joined to anything, rows that find no partner are never locked.
    perform from users where id = any (p_users) order by id for no key update;

    loop
        v_ended := false;
        for r in
            select pair, code, period, starts_at, ends_at, used, cap
            from usage_standing(p_users, p_features, p_now, p_statuses)
        loop
            v_codes[r.pair] := r.code;
            v_periods[r.pair] := r.period;
            v_starts[r.pair] := r.starts_at;
            v_caps[r.pair] := r.cap;
            v_totals[r.pair] := r.used;
            v_ended := v_ended or (r.code is null and r.ends_at <= p_now);
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

    for i in 1 .. cardinality(p_keys) loop
        v_total := v_totals[p_pairs[i]] + p_quantities[i];
        v_verdict := case
            when v_known[p_firsts[i]] = p_fingerprints[i] then 'duplicate'
            when v_known[p_firsts[i]] is not null then 'conflict'
            when p_occurred[i] < p_now - interval '35 days' then 'too_old'
            when p_occurred[i] > p_now + interval '5 minutes' then 'in_future'
            when v_codes[p_pairs[i]] is not null then v_codes[p_pairs[i]]
            when v_total > v_caps[p_pairs[i]] then 'limit_reached'
            when v_total > 999999999 and not fits_double(v_total) then 'total_too_large'
            else 'accepted'
        end;
        v_verdicts[i] := v_verdict;
        if v_verdict = 'accepted' then
            v_totals[p_pairs[i]] := v_total;
            v_known[p_firsts[i]] := p_fingerprints[i];
            v_any := true;
        end if;
    end loop;

    if v_any then
        with accepted as (
            select e.*
            from unnest(
                v_verdicts, p_pairs, p_keys, p_quantities, p_occurred, p_fingerprints, p_properties
            ) as e (verdict, pair, key, quantity, occurred_at, fingerprint, properties)
            where e.verdict = 'accepted'
        ),
        ledger as (
            insert into usage_event (
                user_id, idempotency_key, fingerprint, feature, quantity, occurred_at,
                booked_at, period, late, properties
            )
            select p_users[pair], key, fingerprint, p_features[pair], quantity,
                   coalesce(occurred_at, p_now), p_now, v_periods[pair],
                   coalesce(occurred_at < v_starts[pair], false), properties::jsonb
            from accepted
        ),
        growth as (
            select v_periods[pair] as period, p_features[pair] as feature, sum(quantity) as quantity
            from accepted
            group by pair
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
            total = t.total + excluded.total, settled = false;
    end if;
    return v_verdicts;
end
$$;
