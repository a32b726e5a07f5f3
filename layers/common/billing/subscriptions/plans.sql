-- name: cached_plans
select catalogue, as_of from plans_cache

-- name: charged
select plan_id, currency from charged_currency

-- name: note_currencies
insert into alarm_once (alarm, subject, about)
select 'currency_not_offered', c.currency, min(c.user_id)
from charged_currency c
where c.currency = any (%(currencies)s)
group by c.currency
on conflict do nothing

-- Returns a row if this caller may ask Commet for the plans. Nobody else may for ten seconds.
-- name: lease_plans
update plans_cache set tried_at = now()
where tried_at is null or tried_at < now() - interval '10 seconds'
returning id

-- Stores the catalogue. Records an alarm for each plan in it that is not sold, unless that alarm
-- exists. `not_sold` has the plans' codes, each with the reason.
-- name: cache_plans
with noted as (
    insert into alarm_once (alarm, subject)
    select 'plan_not_sold', n from unnest(%(not_sold)s::text[]) as n
    on conflict do nothing
)
insert into plans_cache as c (id, catalogue, as_of)
values (1, %(catalogue)s, %(as_of)s)
on conflict (id) do update set catalogue = excluded.catalogue, as_of = excluded.as_of
where excluded.as_of >= c.as_of
