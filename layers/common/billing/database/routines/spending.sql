-- What users spend beyond the included quantities, and how much they may spend. docs/usage.md,
-- "Spending ceiling".
--
-- p_spending has the operator's parameters, with amounts in major units by currency. An amount that
-- is null means "no limit". A currency that is missing is not listed:
--   {"currency": "usd", "ceilings": {"usd": "500"}, "at_once": {"usd": "5"}}

-- Returns the ceiling that OverageCeiling gives in a currency: null if none, 0 if the currency is not
-- listed.
create or replace function default_ceiling(p_spending jsonb, p_currency text) returns numeric
language sql immutable as $$
    select case when p_spending->'ceilings' ? p_currency
                then (p_spending->'ceilings'->>p_currency)::numeric else 0 end
$$;

-- Returns the amount that a user's overage may reach: the product's limit or else the default, but
-- not more than the user's own limit. Null if there is none.
create or replace function ceiling_of(p_product numeric, p_default numeric, p_own numeric)
returns numeric
language sql immutable as $$
    select least(coalesce(p_product, p_default), p_own)
$$;

-- Returns the currency of overage in small letters: that of the user's prices, or the operator's.
create or replace function overage_currency(p_currency text, p_spending jsonb) returns text
language sql immutable as $$
    select lower(coalesce(p_currency, p_spending->>'currency') collate "C")
$$;

-- Returns what users spend in their open periods, p_periods, beyond the included quantities: one row
-- for each element of p_users that is not null, numbered by `user_at`. Held reservations do not
-- count. A feature whose price is not known counts as 0, because its overage is refused.
--   spent      what usage beyond the included quantities costs
--   unclaimed  the part of `spent` that is not in a delivery yet
--   currency   of the user's prices; null if no price has one
--   product_limit, own_limit  the limits of `spent` that the product and the user set
--   is_due     whether the user's usage is delivered without waiting for the interval
-- accept_usage reads this under the locks of all users of a batch, so it reads nothing else.
create or replace function spending_of(p_users text[], p_periods bigint[]) returns table (
    user_at bigint, spent numeric, unclaimed numeric, currency text, product_limit numeric,
    own_limit numeric, is_due boolean
)
language sql stable as $$
    select q.user_at, s.spent, s.spent - s.claimed, s.currency, u.spend_limit, u.own_spend_limit,
           coalesce(u.overage_due_until > now(), false)
    from unnest(p_users, p_periods) with ordinality as q (user_id, period, user_at)
    cross join lateral (
        select n.spend_limit, n.own_spend_limit, n.overage_due_until
        from users n where n.id = q.user_id limit 1
    ) as u
    cross join lateral (
        select coalesce(sum(overage_value(t.total + t.carried, e.included, e.unit_price)), 0)
                   as spent,
               coalesce(sum(overage_value(t.claimed + t.carried, e.included, e.unit_price)), 0)
                   as claimed,
               min(e.currency) as currency
        from (
            select n.feature, coalesce(n.included, 0) as included, n.currency,
                   coalesce(n.unit_price, 0) as unit_price
            from entitlements n
            where n.user_id = q.user_id and n.overage_enabled and not n.unlimited
        ) as e
        left join lateral (
            select n.total, n.claimed, n.carried from usage_total n
            where n.period = q.period and n.feature = e.feature limit 1
        ) as t on true
    ) as s
$$;

-- Returns the same of periods that are over: their usage is priced by the terms that they ended
-- with, because the user may have no entitlements any more.
create or replace function spending_of_closed(p_users text[], p_periods bigint[]) returns table (
    user_at bigint, spent numeric, unclaimed numeric, currency text, product_limit numeric,
    own_limit numeric, is_due boolean
)
language sql stable as $$
    select q.user_at, s.spent, s.spent - s.claimed, s.currency, u.spend_limit, u.own_spend_limit,
           coalesce(u.overage_due_until > now(), false)
    from unnest(p_users, p_periods) with ordinality as q (user_id, period, user_at)
    cross join lateral (
        select n.spend_limit, n.own_spend_limit, n.overage_due_until
        from users n where n.id = q.user_id limit 1
    ) as u
    cross join lateral (
        select coalesce(sum(overage_value(t.total + t.carried, e.included, e.unit_price)), 0)
                   as spent,
               coalesce(sum(overage_value(t.claimed + t.carried, e.included, e.unit_price)), 0)
                   as claimed,
               min(e.currency) as currency
        from (
            select n.feature, n.included, n.currency, coalesce(n.unit_price, 0) as unit_price
            from usage_terms n
            where n.period = q.period and n.included is not null
        ) as e
        left join lateral (
            select n.total, n.claimed, n.carried from usage_total n
            where n.period = q.period and n.feature = e.feature limit 1
        ) as t on true
    ) as s
$$;

-- Returns the users' overage in their open periods, with the limits that apply: one row for each
-- element of p_users. `spent`, `unclaimed`: see spending_of.
--   currency   of these amounts
--   by_default the ceiling that OverageCeiling gives; null if none, 0 if the currency is not listed
--   ceiling    the amount that `spent` may reach; null if there is none
--   set_by     who set the ceiling: 'user', 'product' or 'default'
--   at_once    once `unclaimed` reaches this amount, usage is delivered without waiting for the
--              interval; null if that never happens
create or replace function booked_overage_of(
    p_users text[], p_periods bigint[], p_spending jsonb
) returns table (
    user_at bigint, spent numeric, unclaimed numeric, currency text, by_default numeric,
    ceiling numeric, set_by text, at_once numeric
)
language sql stable as $$
    select s.user_at, s.spent, s.unclaimed, c.currency, d.by_default,
           ceiling_of(s.product_limit, d.by_default, s.own_limit),
           case when s.own_limit < coalesce(s.product_limit, d.by_default, 'Infinity')
                    then 'user'
                when s.product_limit is not null then 'product'
                else 'default' end,
           case when s.is_due then 0 else (p_spending->'at_once'->>c.currency)::numeric end
    from spending_of(p_users, p_periods) as s
    cross join lateral (select overage_currency(s.currency, p_spending) as currency) as c
    cross join lateral (select default_ceiling(p_spending, c.currency) as by_default) as d
$$;

-- Returns the amount by which each user's overage would grow if the whole held quantity were used,
-- in rows of `user_at` and `cost`. There is no row for a user without held reservations.
create or replace function held_overage_of(
    p_users text[], p_periods bigint[], p_now timestamptz
) returns table (user_at bigint, cost numeric)
language sql stable as $$
    select q.user_at,
           sum(
               overage_value(coalesce(t.used, 0) + h.held, e.included, e.unit_price)
               - overage_value(coalesce(t.used, 0), e.included, e.unit_price)
           )
    from unnest(p_users, p_periods) with ordinality as q (user_id, period, user_at)
    cross join lateral (
        select r.feature, sum(r.quantity) as held
        from usage_reservation r
        where r.user_id = q.user_id and r.state = 'held' and r.expires_at > p_now
        group by r.feature
    ) as h
    cross join lateral (
        select coalesce(n.included, 0) as included, coalesce(n.unit_price, 0) as unit_price
        from entitlements n
        where n.user_id = q.user_id and n.feature = h.feature and n.overage_enabled
          and not n.unlimited
        limit 1
    ) as e
    left join lateral (
        select n.total + n.carried as used from usage_total n
        where n.period = q.period and n.feature = h.feature limit 1
    ) as t on true
    group by q.user_at
$$;

-- Returns the users' overage, with the columns of booked_overage_of. Here `spent` includes held
-- reservations, as if they were used.
create or replace function overage_of(
    p_users text[], p_periods bigint[], p_now timestamptz, p_spending jsonb
) returns table (
    user_at bigint, spent numeric, unclaimed numeric, currency text, by_default numeric,
    ceiling numeric, set_by text, at_once numeric
)
language sql stable as $$
    select b.user_at, b.spent + coalesce(h.cost, 0), b.unclaimed, b.currency, b.by_default,
           b.ceiling, b.set_by, b.at_once
    from booked_overage_of(p_users, p_periods, p_spending) as b
    left join held_overage_of(p_users, p_periods, p_now) as h on h.user_at = b.user_at
$$;

-- Returns why a user's use of one feature may not grow from p_before to p_after: 'price_unknown',
-- 'spend_limit_reached', or null if it may. Both quantities include `carried` and held
-- reservations. Use within the included quantity is never refused here. The caller has locked the
-- user, and has checked the feature's cap.
create or replace function overage_refusal(
    p_user text, p_feature text, p_period bigint, p_before numeric, p_after numeric,
    p_now timestamptz, p_spending jsonb
) returns text
language sql stable as $$
    select case
        when e.unit_price is null then 'price_unknown'
        when o.spent + overage_value(p_after, e.included, e.unit_price)
             - overage_value(p_before, e.included, e.unit_price) > o.ceiling
            then 'spend_limit_reached'
    end
    from (
        select coalesce(n.included, 0) as included, n.unit_price from entitlements n
        where n.user_id = p_user and n.feature = p_feature and n.overage_enabled
          and not n.unlimited
    ) as e
    cross join lateral overage_of(array[p_user], array[p_period], p_now, p_spending) as o
    where p_after > e.included and p_after > p_before
$$;

-- Returns whether note_overage has anything to record about a user.
create or replace function is_overage_notable(
    p_spent numeric, p_unclaimed numeric, p_by_default numeric, p_at_once numeric
) returns boolean
language sql immutable as $$
    select p_unclaimed > 0 and p_unclaimed >= p_at_once or p_spent >= p_by_default * 0.8
$$;

-- Records what follows from users' overage after usage was booked. A user with enough unclaimed
-- overage gets a row in `overage_due`, so that the next run of deliver_usage claims it. If a user's
-- overage passed four fifths of the default ceiling, `alarm_once` gets a row, and the first user of
-- each day raises an alarm. A currency without a ceiling gets a row there too.
-- The parameters are the columns of one table. Rows whose amounts are null are left out. The caller
-- has locked the users, and calls this only if is_overage_notable of one of them.
create or replace function note_overage(
    p_users text[], p_spent numeric[], p_unclaimed numeric[], p_by_default numeric[],
    p_at_once numeric[], p_currencies text[], p_now timestamptz
) returns void
language sql as $$
    insert into overage_due (user_id, value)
    select user_id, unclaimed
    from unnest(p_users, p_unclaimed, p_at_once) as q (user_id, unclaimed, at_once)
    where unclaimed > 0 and unclaimed >= at_once
    on conflict (user_id) do nothing;

    insert into alarm_once (alarm, subject, about)
    select 'near_ceiling', (p_now at time zone 'UTC')::date::text, user_id
    from unnest(p_users, p_spent, p_by_default) as q (user_id, spent, by_default)
    where spent >= by_default * 0.8 and by_default > 0
    limit 1
    on conflict (alarm, subject) do nothing;

    insert into alarm_once (alarm, subject)
    select distinct 'currency_without_ceiling', currency
    from unnest(p_by_default, p_currencies) as q (by_default, currency)
    where by_default = 0
    on conflict (alarm, subject) do nothing;
$$;

-- Calls note_overage for one user whose usage was booked in p_period, then emits events for the
-- spend thresholds that are reached. Routines that book a single entry call this.
create or replace function note_overage_of(
    p_user text, p_period bigint, p_now timestamptz, p_spending jsonb
) returns void
language plpgsql as $$
declare
    v record;
begin
    select o.spent, o.unclaimed, o.by_default, o.at_once, o.currency, p.spend_look_at into v
    from overage_of(array[p_user], array[p_period], p_now, p_spending) as o
    left join usage_period p on p.id = p_period;
    if v.spent > 0 and is_overage_notable(v.spent, v.unclaimed, v.by_default, v.at_once) then
        perform note_overage(
            array[p_user], array[v.spent], array[v.unclaimed], array[v.by_default],
            array[v.at_once], array[v.currency], p_now
        );
    end if;
    if v.spent >= v.spend_look_at then
        perform tell_spending(p_user, p_period, p_now, p_spending);
    end if;
end
$$;
