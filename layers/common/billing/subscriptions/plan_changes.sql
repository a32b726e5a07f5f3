-- Changes of plan: previews, and the outcomes of confirmed changes.

-- Returns what the user may use now, and what the user has used in the running period.
-- name: terms
select e.feature as code, e.name, e.unit, e.included, e.unlimited, e.unit_price,
       e.overage_enabled,
       e.allowed or coalesce(e.included, 0) > 0 as enabled,
       coalesce(t.total + t.carried, 0) as used
from entitlements e
left join usage_period p
    on p.user_id = e.user_id and p.closed_at is null and p.ends_at > %(now)s
left join usage_total t on t.period = p.id and t.feature = e.feature
where e.user_id = %(user_id)s
order by e.feature

-- name: currency
select min(currency) from entitlements where user_id = %(user_id)s and currency is not null

-- name: keep_preview
insert into plan_change (
    id, user_id, subscription_id, old_plan_id, old_interval, plan_id, billing_interval,
    currency, is_immediate, net_price, due_now, credit, then_price, effective_at, expires_at
)
values (
    %(id)s, %(user_id)s, %(subscription_id)s, %(old_plan_id)s, %(old_interval)s, %(plan_id)s,
    %(billing_interval)s, %(currency)s, %(is_immediate)s, %(net_price)s, %(due_now)s,
    %(credit)s, %(then_price)s, %(effective_at)s, now() + %(lasts)s::interval
)
returning expires_at

-- Returns a preview that can still be confirmed.
-- name: shown
select plan_id, billing_interval, currency, due_now, credit, then_price, effective_at, expires_at
from plan_change
where id = %(id)s and user_id = %(user_id)s and begun_at is null and expires_at > now()

-- name: confirmed
select subscription_id, old_plan_id, old_interval, plan_id, billing_interval, currency,
       is_immediate, net_price, effective_at, begun_at is not null as has_begun,
       expires_at > now() as is_valid, outcome
from plan_change
where id = %(id)s and user_id = %(user_id)s

-- Leases the user's change of plan for 30 seconds: only the request with the lease calls Commet
-- about it. Returns no row if another request has the lease, if the confirmation has expired, or if
-- Commet may have forgotten the change's key, which it keeps for 24 hours.
-- name: lease_change
insert into plan_change_lease as l (user_id, plan_change, leased_until)
select c.user_id, c.id, now() + interval '30 seconds'
from plan_change c
where c.id = %(id)s and c.user_id = %(user_id)s and c.outcome is null
  and case when c.begun_at is null then c.expires_at > now()
           else c.begun_at > now() - interval '23 hours' end
on conflict (user_id) do update set
    plan_change = excluded.plan_change, leased_until = excluded.leased_until
where l.leased_until < now()
returning plan_change

-- name: note_begin
update plan_change set begun_at = coalesce(begun_at, now()) where id = %(id)s

-- name: undo_begin
update plan_change set begun_at = null where id = %(id)s

-- Returns whether a request has the lease.
-- name: is_leased
select exists (
    select from plan_change_lease where user_id = %(user_id)s and leased_until > now()
)

-- name: conclude
update plan_change set outcome = %(outcome)s where id = %(id)s

-- name: end_lease
delete from plan_change_lease where user_id = %(user_id)s and plan_change = %(id)s

-- name: expire
update plan_change set expires_at = least(expires_at, now()) where id = %(id)s
