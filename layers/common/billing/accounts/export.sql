-- Everything recorded about one user, section by section. Each statement returns the rows after a
-- position (`key`), without secrets and hashes of secrets.

-- name: account
select array[t.id] as key, to_jsonb(t) - '{person}'::text[] as row
from users t
where t.id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: password
select array[t.user_id] as key, to_jsonb(t) as row
from exported_passwords t
where t.user_id = %(user_id)s
  and t.user_id > %(after1)s
order by t.user_id
limit %(limit)s

-- name: networks
select array[t.network] as key, to_jsonb(t) as row
from exported_known_networks t
where t.user_id = %(user_id)s
  and t.network > %(after1)s
order by t.network
limit %(limit)s

-- name: identities
select array[t.user_id] as key, to_jsonb(t) - '{email_sha256,name_sha256}'::text[] as row
from identities t
where t.user_id = %(user_id)s
  and t.user_id > %(after1)s
order by t.user_id
limit %(limit)s

-- name: sessions
select array[t.id] as key, to_jsonb(t) - '{token_sha256}'::text[] as row
from sessions t
where t.user_id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: links_in_mails
select array[t.purpose] as key, to_jsonb(t) as row
from exported_account_tokens t
where t.user_id = %(user_id)s
  and t.purpose > %(after1)s
order by t.purpose
limit %(limit)s

-- name: mails
select array[t.id::text] as key, to_jsonb(t) as row
from exported_mails t
where t.user_id = %(user_id)s
  and t.id > coalesce(nullif(%(after1)s, '')::bigint, -1)
order by t.id
limit %(limit)s

-- name: mail_preferences
select array[t.user_id] as key, to_jsonb(t) as row
from mail_preferences t
where t.user_id = %(user_id)s
  and t.user_id > %(after1)s
order by t.user_id
limit %(limit)s

-- name: customer
select array[t.id] as key, to_jsonb(t) as row
from customers t
where t.id = (select u.commet_customer_id from users u where u.id = %(user_id)s)
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: contact_changes
select array[t.user_id] as key, to_jsonb(t) as row
from contact_change t
where t.user_id = %(user_id)s
  and t.user_id > %(after1)s
order by t.user_id
limit %(limit)s

-- name: subscriptions
select array[t.id] as key, to_jsonb(t) as row
from subscriptions t
where t.user_id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: features
select array[t.feature] as key, to_jsonb(t) as row
from entitlements t
where t.user_id = %(user_id)s
  and t.feature > %(after1)s
order by t.feature
limit %(limit)s

-- name: checkouts
select array[t.user_id] as key, to_jsonb(t) as row
from checkout_attempt t
where t.user_id = %(user_id)s
  and t.user_id > %(after1)s
order by t.user_id
limit %(limit)s

-- name: plan_changes
select array[t.id] as key, to_jsonb(t) as row
from plan_change t
where t.user_id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: periods
select array[t.id::text] as key, to_jsonb(t) as row
from usage_period t
where t.user_id = %(user_id)s
  and t.id > coalesce(nullif(%(after1)s, '')::bigint, -1)
order by t.id
limit %(limit)s

-- name: totals
select array[t.period::text, t.feature] as key, to_jsonb(t) as row
from usage_total t
where t.period = any (array(select p.id from usage_period p where p.user_id = %(user_id)s))
  and (t.period, t.feature) > (coalesce(nullif(%(after1)s, '')::bigint, -1), %(after2)s)
order by t.period, t.feature
limit %(limit)s

-- name: days
select array[t.period::text, t.feature, t.day::text] as key, to_jsonb(t) as row
from usage_daily t
where t.period = any (array(select p.id from usage_period p where p.user_id = %(user_id)s))
  and (t.period, t.feature, t.day::text) > (coalesce(nullif(%(after1)s, '')::bigint, -1), %(after2)s, %(after3)s)
order by t.period, t.feature, t.day::text
limit %(limit)s

-- name: ledger
select array[t.idempotency_key, t.feature] as key, to_jsonb(t) - '{fingerprint}'::text[] as row
from usage_event t
where t.user_id = %(user_id)s
  and (t.idempotency_key, t.feature) > (%(after1)s, %(after2)s)
order by t.idempotency_key, t.feature
limit %(limit)s

-- name: thresholds
select array[t.id] as key, to_jsonb(t) as row
from threshold t
where t.user_id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- Measure and feature are one part of the position, because a position has three parts at most.
-- name: thresholds_reached
select array[t.period::text, t.measure || ' ' || t.feature, t.mark] as key, to_jsonb(t) as row
from threshold_reached t
where t.period = any (array(select p.id from usage_period p where p.user_id = %(user_id)s))
  and (t.period, (t.measure || ' ' || t.feature) collate "C", t.mark)
      > (coalesce(nullif(%(after1)s, '')::bigint, -1), %(after2)s, %(after3)s)
order by t.period, (t.measure || ' ' || t.feature) collate "C", t.mark
limit %(limit)s

-- name: credits
select array[t.idempotency_key, t.feature] as key, to_jsonb(t) as row
from usage_credit t
where t.user_id = %(user_id)s
  and (t.idempotency_key, t.feature) > (%(after1)s, %(after2)s)
order by t.idempotency_key, t.feature
limit %(limit)s

-- name: reservations
select array[(h.t).id] as key, to_jsonb(h.t) - '{fingerprint}'::text[] as row
from (
    -- Each half has an index.
    select t from usage_reservation t where t.user_id = %(user_id)s and t.state = 'held'
    union all
    select t from usage_reservation t where t.user_id = %(user_id)s and t.state <> 'held'
) as h (t)
where (h.t).id > %(after1)s
order by (h.t).id
limit %(limit)s

-- name: deliveries
select array[t.period::text, t.feature, t.seq::text] as key, to_jsonb(t) as row
from usage_delivery t
where t.period = any (array(select p.id from usage_period p where p.user_id = %(user_id)s))
  and (t.period, t.feature, t.seq) > (coalesce(nullif(%(after1)s, '')::bigint, -1), %(after2)s, coalesce(nullif(%(after3)s, '')::bigint, -1))
order by t.period, t.feature, t.seq
limit %(limit)s

-- name: differing_totals
select array[t.period::text, t.feature] as key, to_jsonb(t) as row
from usage_drift t
where t.user_id = %(user_id)s
  and (t.period, t.feature) > (coalesce(nullif(%(after1)s, '')::bigint, -1), %(after2)s)
order by t.period, t.feature
limit %(limit)s

-- name: payments
select array[t.kind, t.about] as key, to_jsonb(t) as row
from payment_trouble t
where t.user_id = %(user_id)s
  and (t.kind, t.about) > (%(after1)s, %(after2)s)
order by t.kind, t.about
limit %(limit)s

-- name: debts
select array[t.id::text] as key, to_jsonb(t) as row
from debt t
where t.user_id = %(user_id)s
  and t.id > coalesce(nullif(%(after1)s, '')::bigint, -1)
order by t.id
limit %(limit)s

-- name: payment_links
select array[t.id::text] as key, to_jsonb(t) as row
from debt_link t
where t.user_id = %(user_id)s
  and t.id > coalesce(nullif(%(after1)s, '')::bigint, -1)
order by t.id
limit %(limit)s

-- name: webhooks
select array[t.id] as key, to_jsonb(t) as row
from webhooks t
where t.user_id = %(user_id)s
  and t.id > %(after1)s
order by t.id
limit %(limit)s

-- name: alarms
select array[t.alarm, t.subject] as key, to_jsonb(t) as row
from alarm_once t
where t.about = %(user_id)s
  and (t.alarm, t.subject) > (%(after1)s, %(after2)s)
order by t.alarm, t.subject
limit %(limit)s

-- name: audit
select array[t.id::text] as key, to_jsonb(t) as row
from audit t
where t.user_id = %(user_id)s
  and t.id::text > %(after1)s
order by t.id::text
limit %(limit)s

-- name: events
select array[t.id::text] as key, to_jsonb(t) as row
from outgoing_event t
where t.user_id = %(user_id)s
  and t.id::text > %(after1)s
order by t.id::text
limit %(limit)s
