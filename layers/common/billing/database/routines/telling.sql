-- Outgoing events about access, payments, debts, usage and users. The statement that makes an event
-- true inserts it. Most events come from triggers, because several routines write the same row.

-- Access and subscription ------------------------------------------------------------------------

-- Returns whether a subscription with this status gives access. If access_status is empty, the
-- statuses are those of the default of PastDueHasAccess in the template.
create or replace function gives_access(p_status text) returns boolean
language sql stable as $$
    select p_status = any (coalesce(
        (select array_agg(a.status) from access_status a),
        array['active', 'trialing', 'past_due'] collate "C"
    ))
$$;

-- Returns whether the user may use what the plan has at p_now, by the rules of usage_standing for
-- any feature. Null while that is not certain: Commet has not said what follows a known end, or has
-- not sent the entitlements or the period yet.
create or replace function has_access(p_user text, p_now timestamptz) returns boolean
language sql stable as $$
    select case
        when exists (select from erasure r where r.user_id = p_user) then false
        when s.status is null then false
        when not gives_access(s.status) then false
        when known_end(
            s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at
        ) <= p_now - interval '1 day' then false
        when e.ends_at <= p_now then null
        when not exists (select from granted_features(p_user, b.pays)) then null
        -- A plan without metered features has no period.
        when exists (
            select from granted_features(p_user, b.pays) as g (type) where g.type = 'usage'
        ) and not exists (
            select from usage_period p where p.user_id = p_user and p.closed_at is null
        ) then null
        else true
    end
    from (values (p_user)) as u (id)
    left join current_subscription s on s.user_id = u.id
    left join lateral plan_end(
        s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at, s.plan_id,
        s.scheduled_change
    ) as e (ends_at) on true
    cross join lateral (
        select s.status = 'active' and s.billing_interval is not null as pays
    ) as b
$$;

-- Returns the types of the features that the user's plan grants, by the rule of usage_standing.
-- Commet says "not allowed" also when the included quantity is used up. The plan then has the
-- feature, unless overage of it is billed. p_pays: whether the user pays for a plan that is active;
-- overage is then billed, in good standing.
create or replace function granted_features(p_user text, p_pays boolean)
returns table (type text)
language sql stable as $$
    select n.type
    from entitlements n
    where n.user_id = p_user and (
        n.allowed
        or n.included > 0 and not n.unlimited and not (
            n.overage_enabled and p_pays and exists (
                select from users u
                where u.id = p_user and not u.has_dispute and not u.has_debt
            )
        )
    )
$$;

-- Returns the user's subscription in the form in which events show it. Null if the user has no
-- subscription that was ever paid or was begun without a price.
create or replace function subscription_to_tell(p_user text) returns jsonb
language sql stable as $$
    select jsonb_build_object(
        'subscription_id', s.id, 'plan_id', s.plan_id, 'plan', s.plan_name,
        'interval', s.billing_interval, 'status', s.status,
        'cancel_at', case when s.cancel_at_period_end and s.status <> 'canceled'
                          then rfc3339(s.period_end) end,
        'trial_ends_at', case when s.status = 'trialing' then rfc3339(s.trial_ends_at) end,
        'scheduled_change', case when s.status <> 'canceled' then s.scheduled_change end
    )
    from current_subscription s
    where s.user_id = p_user
      and s.status in ('active', 'trialing', 'past_due', 'paused', 'canceled')
$$;

-- Returns a time in the form in which events show it: in UTC with milliseconds.
create or replace function rfc3339(p_at timestamptz) returns text
language sql stable as $$
    select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Returns what differs between two states of a subscription (subscription_to_tell), as a list of
-- words.
create or replace function changes_of_subscription(p_old jsonb, p_new jsonb) returns text[]
language sql immutable as $$
    select array_remove(array[
        case when p_new->>'plan_id' is distinct from p_old->>'plan_id'
               or p_new->>'plan' is distinct from p_old->>'plan' then 'plan' end,
        case when p_new->>'interval' is distinct from p_old->>'interval' then 'interval' end,
        case when p_new->>'status' is distinct from p_old->>'status'
               or p_new->>'subscription_id' is distinct from p_old->>'subscription_id'
             then 'status' end,
        case when p_new->>'cancel_at' is distinct from p_old->>'cancel_at'
               and p_new->>'cancel_at' is not null
             then 'cancellation_booked' end,
        case when p_new->>'trial_ends_at' is distinct from p_old->>'trial_ends_at'
               and p_new->>'trial_ends_at' is not null
             then 'trial' end,
        case when p_new->>'cancel_at' is null and p_old->>'cancel_at' is not null
               and p_new->>'status' <> 'canceled'
             then 'cancellation_withdrawn' end,
        case when nullif(p_new->'scheduled_change', 'null')
                  is distinct from nullif(p_old->'scheduled_change', 'null')
               and p_new->>'scheduled_change' is not null
             then 'change_booked' end,
        case when p_new->>'scheduled_change' is null and p_old->>'scheduled_change' is not null
               and p_new->>'plan_id' is not distinct from p_old->>'plan_id'
               and p_new->>'interval' is not distinct from p_old->>'interval'
               and p_new->>'status' <> 'canceled'
             then 'change_withdrawn' end
    ], null)
$$;

-- Emits events about what changed in the user's subscription and access since the last event. If
-- nothing changed, writes nothing. If a trial goes on, its end is announced once, three days
-- before. The caller has locked the user.
create or replace function tell_subscription(p_user text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_told record;
    v_now jsonb := subscription_to_tell(p_user);
    v_access boolean := has_access(p_user, p_now);
    v_changes text[];
begin
    select t.has_access, t.subscription into v_told from told t where t.user_id = p_user;
    if v_now is null and not found then
        return;
    end if;
    v_told.subscription := coalesce(v_told.subscription, '{}');
    v_told.has_access := coalesce(v_told.has_access, false);
    if v_now is not null then
        v_changes := changes_of_subscription(v_told.subscription, v_now);
        v_now := v_now || jsonb_build_object('trial_ending', v_told.subscription->'trial_ending');
        if v_now->>'trial_ends_at' <> coalesce(v_now->>'trial_ending', '')
           and v_now->>'cancel_at' is null
           and (v_now->>'trial_ends_at')::timestamptz > p_now
           and (v_now->>'trial_ends_at')::timestamptz <= p_now + interval '3 days' then
            v_changes := v_changes || 'trial_ending'::text;
            v_now := v_now || jsonb_build_object('trial_ending', v_now->'trial_ends_at');
        end if;
        if v_changes <> '{}' then
            perform emit_event(
                p_user, 'subscription.changed', p_now,
                (v_now - 'trial_ending') || jsonb_build_object('changes', to_jsonb(v_changes))
            );
        end if;
    end if;
    if v_access <> v_told.has_access then
        perform emit_event(
            p_user, case when v_access then 'access.granted' else 'access.ended' end, p_now,
            jsonb_build_object(
                'subscription_id', v_now->'subscription_id', 'plan_id', v_now->'plan_id',
                'plan', v_now->'plan', 'status', v_now->'status'
            ) || case when v_access then '{}' else jsonb_build_object('reason', case
                when exists (select from erasure r where r.user_id = p_user) then 'erased'
                when v_now is null then 'no_subscription'
                when gives_access(v_now->>'status') then 'ended'
                else v_now->>'status'
            end) end
        );
    end if;
    insert into told as t (user_id, has_access, subscription)
    values (
        p_user, coalesce(v_access, v_told.has_access), coalesce(v_now, v_told.subscription)
    )
    on conflict (user_id) do update set
        has_access = excluded.has_access, subscription = excluded.subscription
    where (t.has_access, t.subscription) is distinct from (excluded.has_access, excluded.subscription);
end
$$;

-- Emits events about what became true only because time passed or a parameter changed: a trial ends
-- soon, a known end passed a day ago, or past-due users got or lost access by PastDueHasAccess.
-- Handles up to p_limit users whose ids come after p_after. Returns the last id, null if there are
-- no more.
create or replace function tell_what_is_due(p_after text, p_limit integer, p_now timestamptz)
returns text
language plpgsql as $$
declare
    v_users text[];
begin
    v_users := array(
        select d.user_id
        from (
            select s.user_id from subscriptions s
            join told t on t.user_id = s.user_id
            where s.status = 'trialing' and s.trial_ends_at > p_now
              and s.trial_ends_at <= p_now + interval '3 days' and not s.cancel_at_period_end
              and t.subscription->>'trial_ending' is distinct from rfc3339(s.trial_ends_at)
            union
            select s.user_id from subscriptions s
            join told t on t.user_id = s.user_id and t.has_access
            where s.cancel_at_period_end and s.status in ('active', 'trialing', 'past_due')
              and s.period_end <= p_now - interval '1 day'
            union
            select s.user_id from subscriptions s
            join told t on t.user_id = s.user_id and t.has_access
            where s.status = 'trialing' and s.trial_ends_at <= p_now - interval '1 day'
            union
            select s.user_id from subscriptions s
            join told t on t.user_id = s.user_id
            where s.status = 'past_due' and t.has_access <> gives_access(s.status)
        ) as d
        where d.user_id > p_after
        order by d.user_id
        limit p_limit
    );
    perform from users where id = any (v_users) order by id for no key update;
    perform tell_subscription(u.id, p_now) from unnest(v_users) as u (id);
    return (select max(u.id) from unnest(v_users) as u (id));
end
$$;

-- Payments and debts -----------------------------------------------------------------------------

-- Emits events about a payment trouble: a payment failed, or was made up for, was refunded, is
-- disputed, or its dispute ended. `payment_trouble.told` records what the events said, so that news
-- that comes twice or late emits no second event.
create or replace function tell_payment() returns trigger
language plpgsql as $$
declare
    v_about jsonb := jsonb_build_object(
        'amount', new.amount::text, 'currency', new.currency, 'reason', new.reason
    );
    v_ended jsonb;
begin
    if new.kind = 'failed_payment' then
        v_about := v_about || jsonb_build_object('invoice_id', new.about);
    else
        v_about := v_about || jsonb_build_object('transaction_id', new.about);
    end if;
    if new.kind in ('failed_payment', 'dispute') and not new.told ? 'opened' then
        perform emit_event(
            new.user_id,
            case new.kind when 'dispute' then 'payment.disputed' else 'payment.failed' end,
            new.opened_at, v_about
        );
        new.told := new.told || '{"opened": true}';
    end if;
    -- Two refunds of one payment may have the same amount, so the time is part of the comparison.
    v_ended := jsonb_build_array(new.outcome, new.amount::text)
        || case when new.kind = 'refund' then jsonb_build_array(rfc3339(new.resolved_at))
                else '[]' end;
    if new.outcome is not null and new.told->'ended' is distinct from v_ended then
        if new.kind = 'failed_payment' and new.outcome = 'recovered' then
            perform emit_event(
                new.user_id, 'payment.recovered', coalesce(new.resolved_at, new.changed_at), v_about
            );
        elsif new.kind = 'refund' then
            perform emit_event(
                new.user_id, 'payment.refunded', coalesce(new.resolved_at, new.changed_at), v_about
            );
        elsif new.kind = 'dispute' and new.told->'ended'->>0 is distinct from new.outcome then
            perform emit_event(
                new.user_id, 'payment.dispute_resolved', coalesce(new.resolved_at, new.changed_at),
                v_about || jsonb_build_object('outcome', new.outcome)
            );
        end if;
        new.told := new.told || jsonb_build_object('ended', v_ended);
    end if;
    return new;
end
$$;

-- The trigger is on updates only: the row that record_payment_trouble inserts is still empty, and
-- the routine always updates it.
create or replace trigger tell_payment_of_trouble
before update on payment_trouble
for each row
when (new.kind in ('failed_payment', 'refund', 'dispute') and new.known_at <> '{}')
execute function tell_payment();

-- Emits an event when a debt is owed, once its amount is known; again when the amount has changed;
-- and an event when it is not owed any more. If the person came back (move_debts), the debt has
-- ended for the erased user and is owed by the new one.
create or replace function tell_debt() returns trigger
language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.user_id <> new.user_id then
        if not exists (select from users u where u.id = old.user_id) then
            return null;  -- the user has another id, and the debt is still the user's
        end if;
        perform emit_event(
            old.user_id, 'debt.closed', now(), jsonb_build_object(
                'debt', old.id, 'kind', old.kind, 'amount', trim_scale(old.amount)::text,
                'currency', old.currency, 'ended_by', 'moved'
            )
        );
    end if;
    perform emit_event(
        new.user_id,
        case when new.ended_at is null then 'debt.opened' else 'debt.closed' end,
        coalesce(new.ended_at, new.opened_at),
        jsonb_build_object(
            'debt', new.id, 'kind', new.kind, 'amount', trim_scale(new.amount)::text,
            'currency', new.currency
        ) || case when new.ended_at is null then '{}'
                  else jsonb_build_object('ended_by', new.ended_by) end
    );
    return null;
end
$$;

create or replace trigger tell_new_debt
after insert on debt
for each row when (new.amount > 0 and new.ended_at is null)
execute function tell_debt();

create or replace trigger tell_changed_debt
after update on debt
for each row
when (
    -- The debt's amount is known, or is another one, or the debt is open again, or somebody else's.
    (new.amount > 0 and new.ended_at is null
     and (old.amount is distinct from new.amount or old.ended_at is not null
          or old.user_id <> new.user_id))
    or (old.amount > 0 and old.ended_at is null and new.ended_at is not null)
)
execute function tell_debt();

-- Usage ------------------------------------------------------------------------------------------

-- Returns the dates of a period in the form in which events show them.
create or replace function period_to_tell(p_period bigint) returns jsonb
language sql stable as $$
    select jsonb_build_object(
        'period_start', rfc3339(p.starts_at), 'period_end', rfc3339(p.ends_at)
    )
    from usage_period p
    where p.id = p_period
$$;

-- Emits an event when usage is parked: Commet refused it, or nobody knows whether Commet has it.
create or replace function tell_parked() returns trigger
language plpgsql as $$
begin
    perform emit_event(
        new.user_id, 'usage.parked', now(),
        period_to_tell(new.period) || jsonb_build_object(
            'feature', new.feature, 'quantity', trim_scale(new.quantity)::text,
            'reason', new.reason, 'amount', trim_scale(new.amount)::text, 'currency', new.currency
        )
    );
    return null;
end
$$;

create or replace trigger tell_parked_usage
after update of state on usage_delivery
for each row
when (new.state = 'parked' and old.state <> 'parked' and new.kind in ('event', 'replacement'))
execute function tell_parked();

-- Emits an event when Commet billed more than was used in a period that is over, so that a person
-- has to give it back.
create or replace function tell_credit(
    p_user text, p_period bigint, p_feature text, p_quantity numeric, p_amount numeric,
    p_currency text
) returns void
language sql as $$
    select emit_event(
        p_user, 'usage.credit_needed', now(),
        period_to_tell(p_period) || jsonb_build_object(
            'feature', p_feature, 'quantity', trim_scale(p_quantity)::text,
            'amount', trim_scale(p_amount)::text, 'currency', p_currency
        )
    )
$$;

create or replace function tell_credit_of_drift() returns trigger
language plpgsql as $$
begin
    perform tell_credit(
        new.user_id, new.period, new.feature, new.excess, new.amount, new.currency
    );
    return null;
end
$$;

-- This trigger is for drift that was closed. The credits of corrections have a trigger of their
-- own, below.
create or replace trigger tell_credit_of_closed_drift
after insert on usage_delivery
for each row when (new.kind = 'credit' and new.reason = 'needs_credit' and new.quantity = 0)
execute function tell_credit_of_drift();

create or replace function tell_credit_of_correction() returns trigger
language plpgsql as $$
begin
    perform tell_credit(new.user_id, e.period, new.feature, new.quantity, new.amount, new.currency)
    from usage_event e
    where e.user_id = new.user_id and e.idempotency_key = new.idempotency_key
      and e.feature = new.feature;
    return null;
end
$$;

create or replace trigger tell_new_credit
after insert on usage_credit
for each row when (new.quantity > 0)
execute function tell_credit_of_correction();

create or replace trigger tell_grown_credit
after update of quantity on usage_credit
for each row when (new.quantity > 0 and old.quantity = 0)
execute function tell_credit_of_correction();

-- Emits an event about an entry that corrects a total.
create or replace function tell_correction(p_entry usage_event, p_total numeric) returns void
language sql as $$
    select emit_event(
        p_entry.user_id, 'usage.corrected', p_entry.booked_at,
        period_to_tell(p_entry.period) || jsonb_build_object(
            'feature', p_entry.feature, 'key', p_entry.idempotency_key,
            'quantity', trim_scale(p_entry.quantity)::text, 'total', trim_scale(p_total)::text
        )
    )
$$;

-- Users ------------------------------------------------------------------------------------------

-- Runs as the owner of the tables, because the role that signs people up may not write events. If
-- the id was that of an erased user, the count of events goes on where it was: a receiver that keeps
-- the largest sequence of each user would pass over events that begin at 1 again.
create or replace function tell_registered() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    insert into told (user_id, sequence)
    select new.id, max(e.last_sequence) from erasure e
    where e.given_sha256 = sha256(convert_to(new.id, 'UTF8'))
    having max(e.last_sequence) > 0
    on conflict (user_id) do nothing;
    perform emit_event(new.id, 'user.registered', coalesce(new.verified_at, new.created_at), '{}');
    return null;
end
$$;

-- For users of a product or of an identity provider.
create or replace trigger tell_registered_user
after insert on users
for each row when (not new.own_account or new.verified_at is not null)
execute function tell_registered();

-- An unverified account may be anybody's and is deleted after a day, so the event is emitted when
-- the address is proven.
create or replace trigger tell_verified_user
after update of verified_at on users
for each row
when (new.own_account and old.verified_at is null and new.verified_at is not null
      and old.freed_at is null)
execute function tell_registered();

create or replace function tell_erased() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    perform tell_subscription(new.id, now());
    perform emit_event(new.id, 'user.erased', new.erased_at, '{}');
    return null;
end
$$;

create or replace trigger tell_erased_user
after update of erased_at on users
for each row when (old.erased_at is null and new.erased_at is not null)
execute function tell_erased();
