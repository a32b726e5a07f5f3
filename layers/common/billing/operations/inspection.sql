-- Everything recorded about one user, for an operator.

-- name: find
select id, commet_customer_id, email, created_at, entitlements_at, unsubscribed_at,
       has_dispute, has_debt, own_account, verified_at
from users
where id = %(who)s or commet_customer_id = %(who)s
   or coalesce(email_key, lower(normalize(email, nfkc) collate "C")) = %(email_key)s
order by id = %(who)s desc, commet_customer_id = %(who)s desc nulls last,
         (own_account and verified_at is not null) desc, created_at desc, id
limit 1

-- Returns other users with the same address. Only the user that is shown may have proven it.
-- name: same_address
select id from users
where coalesce(email_key, lower(normalize(email, nfkc) collate "C")) = %(email_key)s
  and id <> %(user_id)s
order by created_at desc, id
limit 20

-- name: subscriptions
select s.id, s.status, s.id = c.id as current, s.plan_id, s.plan_name, s.billing_interval,
       s.period_start, s.period_end, s.cancel_at_period_end, s.scheduled_change, s.trial_ends_at, s.created_at,
       s.changed_at, s.version, s.confirmed_at, s.checked_at, s.checks, s.refresh_due, s.recheck_at,
       is_in_doubt(s, %(now)s) as in_doubt, a.schedule_asks_at, a.schedule_asks_at <= now() as due
from subscriptions s
join current_subscription c on c.user_id = s.user_id
cross join lateral (select schedule_asks_at(s, %(now)s) as schedule_asks_at) as a
where s.user_id = %(user_id)s
order by s.created_at desc, s.id

-- name: entitlements
select feature, type, model, allowed, included, unlimited, overage_enabled, unit_price, currency,
       changed_at, version
from entitlements
where user_id = %(user_id)s
order by feature

-- name: periods
select p.id, p.subscription_id, p.plan_id, p.starts_at, p.ends_at, p.provisional, p.closed_at,
       coalesce(jsonb_object_agg(
           t.feature, jsonb_build_object('total', trim_scale(t.total)::text, 'claimed', trim_scale(t.claimed)::text)
       ) filter (where t.feature is not null), '{}') as usage
from usage_period p
left join usage_total t on t.period = p.id
where p.user_id = %(user_id)s
group by p.id
order by p.id desc
limit 6

-- name: deliveries
select d.event_id, d.kind, d.state, d.reason, d.quantity, d.generation, d.attempts, d.due_at,
       d.compare_at, d.excess, d.amount, d.currency
from usage_delivery d
where d.user_id = %(user_id)s and d.state <> 'sent' and d.resolved_at is null
order by d.due_at
limit 50

-- name: drift
select period, feature, ours, theirs, found_at, checked_at, repair, reason
from usage_drift
where user_id = %(user_id)s
order by period, feature

-- name: payments
select kind, about, invoice_id, transaction_id, payment_link_id, subscription_id, amount, currency,
       reason, recovery_url, opened_at, resolved_at, outcome, changed_at, asked_at
from payment_trouble
where user_id = %(user_id)s
order by changed_at desc, kind, about

-- name: debts
select id, kind, source, amount, tax, currency, opened_at, ended_at, ended_by, author, note
from debt
where user_id = %(user_id)s
order by id desc
limit 50

-- name: debt_links
select id, state, debts, total, currency, payment_id, transaction_id, overpaid, refunded_at
from debt_link
where user_id = %(user_id)s
order by id desc
limit 20

-- name: contact
select version, due_at, leased_until, refused
from contact_change
where user_id = %(user_id)s

-- name: checkout
select attempt, plan_code, billing_interval, started_at, leased_until, subscription_id
from checkout_attempt
where user_id = %(user_id)s

-- name: webhooks
select id, type, status, occurred_at, received_at, attempts, due_at, error,
       payload is not null as has_payload
from webhooks
where customer = any (%(customers)s)
order by received_at desc
limit 50

-- Returns the newest events, each with the number of endpoints that it waits for, and the number
-- that did not take it in three days.
-- name: outgoing_events
select e.occurred_at, e.type, e.sequence, e.id::text as id, e.data,
       (select count(*) from event_delivery d
        where d.event = e.id and d.state = 'pending') as waiting,
       (select count(*) from event_delivery d
        where d.event = e.id and d.state = 'failed') as failed
from outgoing_event e
where e.user_id = %(user_id)s
order by e.sequence desc nulls first, e.entry desc
limit 20

-- name: audit
select at, actor_kind, actor, action, outcome, network, details, note
from audit
where user_id = %(user_id)s
order by at desc, id desc
limit 20
