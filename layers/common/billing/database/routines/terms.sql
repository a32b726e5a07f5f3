-- The terms that usage is billed on, and what usage costs on them.

-- What usage beyond the included costs, in major units; unit prices are in the rate scale. Null where
-- there is any and its price is not known.
create or replace function overage_value(p_used numeric, p_included numeric, p_unit_price numeric)
returns numeric
language sql immutable as $$
    select case when p_used > p_included then (p_used - p_included) * p_unit_price / 10000 else 0 end
$$;

-- On what terms a total is billed: as its period ended, or as they are now. `included` is null
-- where it is unlimited, `unit_price` 0 where nothing beyond it is billed and null where that is not
-- known. `carried` takes up what is included before anything that was counted here does.
create or replace view usage_terms as
select t.period, t.feature,
       case when k.kept then t.included
            when e.unlimited is not true then coalesce(e.included, 0) end as included,
       case when k.kept then t.unit_price
            when e.overage_enabled is false then 0 else e.unit_price end as unit_price,
       case when k.kept then t.currency else e.currency end as currency,
       t.carried
from usage_total t
join usage_period p on p.id = t.period
cross join lateral (select coalesce(t.terms_at >= p.closed_at, false) as kept) as k
left join entitlements e on e.user_id = p.user_id and e.feature = t.feature;

-- Keeps the terms of what was counted so far: they are about to be replaced. A period that is over
-- keeps the first it gets, those it ended with.
create or replace function keep_terms(p_user text, p_now timestamptz) returns void
language sql as $$
    update usage_total t set
        included = case when not e.unlimited then coalesce(e.included, 0) end,
        unit_price = case when e.overage_enabled then e.unit_price else 0 end,
        currency = e.currency,
        terms_at = p_now
    from usage_period p
    join entitlements e on e.user_id = p.user_id
    where p.user_id = p_user and t.period = p.id and t.feature = e.feature
      and (p.closed_at is null or t.terms_at is null or t.terms_at < p.closed_at)
      and (e.allowed or e.included > 0 or e.unlimited or e.overage_enabled)
$$;
