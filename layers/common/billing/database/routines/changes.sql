-- Writing a change that Commet reports about a customer into the mirror. Webhooks, checkout answers
-- and refreshes all call these routines. Each change is one statement, so changes may arrive in any
-- order, twice or late.
--
-- These are routines, and not statements in Python, because several tables change together, and the
-- changes depend on the tables' content. One statement is the only unit that neither a crash nor a
-- second caller can interrupt half-way (docs/decisions/0004).

-- Puts deliveries in doubt, because we learn late that Commet began another period at p_start. If
-- Commet took a delivery after p_start, and we placed that delivery in an earlier period, Commet
-- may have booked it in the new one. A delivery that we placed in the open period, but that Commet
-- took before that period began, is booked in another one. Comparing totals decides
-- (delivery/comparing.py). A delivery within a minute of the end of a period is in doubt anyway
-- (outbox.MARGIN). This routine uses the same minute, because clocks differ.
create or replace function doubt_deliveries(p_user text, p_start timestamptz) returns void
language sql as $$
    update usage_delivery d set billed_period = null, compare_at = now(), doubted_at = now()
    from usage_period p
    where p.user_id = p_user
      and coalesce(
          p.closed_at > p_start - interval '1 minute',
          d.answered_at < p.starts_at + interval '1 minute'
      )
      and d.period = p.id and d.billed_period = p.id
      and d.state = 'sent' and d.kind = 'event' and d.compare_at is null
      and d.answered_at > p_start - interval '1 minute'
$$;

-- Remembers that a subscription had a trial, because Commet may not report the trial after it has
-- ended.
create or replace function remember_trial() returns trigger
language plpgsql as $$
begin
    new.had_trial := true;
    return new;
end
$$;

create or replace trigger remember_trial_of_subscription
before insert or update on subscriptions
for each row
when (
    not new.had_trial and (
        new.status = 'trialing'
        or (new.trial_ends_at is not null
            and new.status in ('active', 'past_due', 'paused', 'canceled'))
    )
)
execute function remember_trial();

-- Remembers that a subscription ended while a payment was overdue. Usage that is reported shortly
-- after the end then has no overage, as it had none before (late_place).
create or replace function remember_overdue() returns trigger
language plpgsql as $$
begin
    new.ended_overdue := new.status in ('canceled', 'paused')
        and (old.status = 'past_due' or old.ended_overdue);
    return new;
end
$$;

create or replace trigger remember_overdue_of_subscription
before update of status on subscriptions
for each row
when (old.status <> new.status)
execute function remember_overdue();

-- Remembers when the subscription's last pause began and ended, because usage that occurred in it
-- belongs to no period (late_place).
create or replace function remember_pause() returns trigger
language plpgsql as $$
declare
    v_at timestamptz := coalesce(
        to_timestamp((new.known_at->>'status')::numeric), new.changed_at
    );
begin
    if new.status = 'paused' then
        if new.paused_at is null or new.resumed_at is not null then
            new.paused_at := v_at;
            new.resumed_at := null;
        end if;
    elsif new.paused_at is not null and new.resumed_at is null
          and new.status in ('active', 'trialing', 'past_due') then
        new.resumed_at := v_at;
    end if;
    return new;
end
$$;

create or replace trigger remember_pause_of_subscription
before insert or update of status on subscriptions
for each row
when (new.status = 'paused' or new.paused_at is not null)
execute function remember_pause();

-- Records, for a free period that begins, which earlier free periods the user left early. The
-- included quantity of those periods is not given a second time.
create or replace function link_free_periods(p_period bigint) returns void
language sql as $$
    insert into earlier_free_period (period, earlier, until)
    select p.id, e.id, e.ends_at
    from usage_period p
    join usage_period e on e.user_id = p.user_id and e.is_free and e.id <> p.id
        and e.closed_at < e.ends_at and e.ends_at > p.starts_at
    where p.id = p_period and p.is_free
    on conflict (period, earlier) do nothing
$$;

-- Opens the period that Commet reports, or corrects the dates of the open one. If Commet reports an
-- earlier period, nothing changes. p_confirmed is when Commet last told us which period runs. If
-- the plan changed and then another period began, and we heard of neither, Commet may have booked
-- deliveries since p_confirmed in a period that we never hear of. Such deliveries are put in doubt.
-- The caller has locked the user.
create or replace function record_period(
    p_user text, p_subscription text, p_plan text, p_is_free boolean, p_start timestamptz,
    p_end timestamptz, p_now timestamptz, p_confirmed timestamptz default null
) returns void
language plpgsql as $$
declare
    v_open record;
    v_last record;
    v_since timestamptz := p_start;
    v_new bigint;
begin
    -- `was_trial`: what was used before p_start is of a trial, so Commet does not bill it.
    select p.id, p.subscription_id, p.plan_id, p.starts_at, p.ends_at, p.provisional,
           p.is_trial and p_start > p.starts_at and not exists (
               select from subscriptions s where s.id = p_subscription and s.status = 'trialing'
           ) as was_trial
    into v_open
    from usage_period p
    where p.user_id = p_user and p.closed_at is null;

    if found then
        if v_open.subscription_id = p_subscription and v_open.starts_at = p_start
           and v_open.plan_id is not distinct from coalesce(p_plan, v_open.plan_id) then
            update usage_period set ends_at = p_end, provisional = false, is_free = p_is_free
            where id = v_open.id and (ends_at <> p_end or provisional or is_free <> p_is_free);
            if found then
                perform link_free_periods(v_open.id);
            end if;
            return;
        end if;
        if p_end <= v_open.starts_at
           or (p_start < v_open.starts_at and not v_open.provisional
               and v_open.subscription_id = p_subscription) then
            return;  -- an earlier period
        end if;
        if v_open.provisional and v_open.subscription_id = p_subscription then
            -- The month before goes on, because a pause moved its end. Usage of the guess stays in the
            -- guess. It counts in the month before only as `carried`, if Commet booked it there.
            select id into v_last
            from usage_period
            where user_id = p_user and subscription_id = p_subscription and starts_at = p_start
              and plan_id is not distinct from p_plan and id <> v_open.id and not provisional
            order by id desc limit 1;
            if found then
                update usage_period set closed_at = p_now where id = v_open.id;
                update usage_period set closed_at = null, ends_at = p_end where id = v_last.id;
                perform doubt_deliveries(p_user, p_start);
                return;
            end if;
        end if;
        -- The reported period begins at a time at which the calendar of the open period begins
        -- none, and the open period is over, or we guessed its dates. So we missed a change, and
        -- put all deliveries since p_confirmed in doubt.
        if p_start <> v_open.starts_at and (v_open.provisional or p_start > v_open.ends_at)
           and p_start <> (
               select n.starts_at
               from following_period(v_open.starts_at, v_open.ends_at, p_start) as n
           ) then
            v_since := least(p_start, p_confirmed);
        end if;
        -- The open period is provisional: we guessed its dates. They are corrected in place.
        -- Opening another period would give the user a second allowance for what was used since.
        if v_open.provisional and v_open.subscription_id = p_subscription
           and v_open.plan_id is not distinct from coalesce(p_plan, v_open.plan_id)
           and p_start < v_open.ends_at and not v_open.was_trial then
            update usage_period set
                starts_at = p_start, ends_at = p_end, provisional = false, is_free = p_is_free
            where id = v_open.id;
            perform doubt_deliveries(p_user, v_since);
            return;
        end if;
        update usage_period set closed_at = p_now where id = v_open.id;
    else
        -- If the subscription was over only for a moment, open its last period again. If we guessed
        -- the dates of that period, they are corrected, unless it was over when the reported period
        -- began: then the user was charged anew.
        select id, starts_at into v_last
        from usage_period
        where user_id = p_user and subscription_id = p_subscription
          and plan_id is not distinct from p_plan
          and (
              starts_at = p_start
              or provisional and starts_at < p_end and ends_at > p_start and closed_at > p_start
          )
        order by starts_at = p_start desc, id desc limit 1;
        if found then
            update usage_period set
                closed_at = null, starts_at = p_start, ends_at = p_end, provisional = false
            where id = v_last.id;
            if v_last.starts_at <> p_start then
                perform doubt_deliveries(p_user, p_start);
            end if;
            return;
        end if;
        if exists (
            select from usage_period
            where user_id = p_user and starts_at > p_start and not provisional
              and subscription_id = p_subscription
        ) then
            return;
        end if;
    end if;

    insert into usage_period (user_id, subscription_id, plan_id, is_free, starts_at, ends_at)
    values (p_user, p_subscription, p_plan, p_is_free, p_start, p_end)
    returning id into v_new;
    perform link_free_periods(v_new);
    perform doubt_deliveries(p_user, v_since);
end
$$;

-- Returns the unit price of a feature's overage in the user's current plan, from the cached public
-- plans, in the rate scale. Null if the price is not there.
create or replace function price_in_plans(p_user text, p_feature text) returns numeric
language sql stable as $$
    select (f.feature->'overage'->>'unit_price')::numeric
    from current_subscription s
    cross join plans_cache c
    cross join lateral jsonb_array_elements(c.catalogue) as p (plan)
    cross join lateral jsonb_array_elements(p.plan->'features') as f (feature)
    where s.user_id = p_user and p.plan->>'id' = s.plan_id and f.feature->>'code' = p_feature
    limit 1
$$;

-- Notes that Commet charges the user's subscription in a currency.
create or replace function note_currency(p_user text, p_id text, p_currency text) returns void
language sql as $$
    insert into charged_currency (plan_id, currency, user_id)
    select s.plan_id, lower(p_currency collate "C"), p_user
    from subscriptions s
    where s.id = p_id and s.user_id = p_user and s.plan_id is not null and p_currency is not null
      and not exists (  -- writes nothing if the currency is recorded
          select from charged_currency c
          where c.plan_id = s.plan_id and c.currency = lower(p_currency collate "C")
      )
    on conflict do nothing
$$;

-- Replaces a user's entitlements by those that Commet listed at p_at. A feature that is no longer
-- listed stays as a row that allows nothing: if the row were deleted, an older change could bring
-- the feature back.
create or replace function record_entitlements(p_user text, p_at timestamptz, p_features jsonb)
returns void
language plpgsql as $$
begin
    insert into entitlements as e (
        user_id, feature, name, unit, type, model, allowed, included, unlimited,
        overage_enabled, unit_price, currency, changed_at
    )
    select p_user, f.feature, f.name, f.unit, f.type, f.model, f.allowed, f.included,
           f.unlimited, f.overage_enabled, f.unit_price, f.currency, p_at
    from jsonb_to_recordset(p_features) as f (
        feature text, name text, unit text, type text, model text, allowed boolean,
        included numeric, unlimited boolean, overage_enabled boolean, unit_price numeric,
        currency text
    )
    order by f.feature
    on conflict (user_id, feature) do update set
        name = excluded.name, unit = excluded.unit, type = excluded.type,
        model = excluded.model, allowed = excluded.allowed, included = excluded.included,
        unlimited = excluded.unlimited, overage_enabled = excluded.overage_enabled,
        -- A price seen once is kept if a later change does not state it.
        unit_price = coalesce(excluded.unit_price, e.unit_price),
        currency = coalesce(excluded.currency, e.currency),
        changed_at = excluded.changed_at, version = e.version + 1
    where excluded.changed_at >= e.changed_at;  -- always true: record_change drops older sets

    -- Commet may leave out the price of overage in an entitlement.
    update entitlements set unit_price = price_in_plans(p_user, feature)
    where user_id = p_user and overage_enabled and unit_price is null and currency is null;

    update entitlements set
        allowed = false, included = 0, unlimited = false, overage_enabled = false,
        changed_at = p_at, version = version + 1
    where user_id = p_user and changed_at < p_at
      and not exists (
          select from jsonb_array_elements(p_features) as f where f->>'feature' = feature
      );
end
$$;

-- Returns whether a set of entitlements differs from the recorded one. The caller asks this if both
-- sets have the same time, because then time does not say which of the two is newer.
create or replace function entitlements_differ(p_user text, p_features jsonb) returns boolean
language sql stable as $$
    select exists (
        select
        from (
            select n.feature, n.model, n.allowed, n.included, n.unlimited, n.overage_enabled
            from entitlements n
            where n.user_id = p_user
        ) as e
        full join jsonb_to_recordset(p_features) as f (
            feature text, model text, allowed boolean, included numeric, unlimited boolean,
            overage_enabled boolean
        ) on f.feature = e.feature
        where case
            when f.feature is null then e.allowed
            else (f.model, f.allowed, f.included, f.unlimited, f.overage_enabled)
                 is distinct from (e.model, e.allowed, e.included, e.unlimited, e.overage_enabled)
        end
    )
$$;

-- Returns the `known_at` of a row after a change of p_at that states the columns in p_known.
create or replace function known_at_of(p_known_at jsonb, p_known jsonb, p_at timestamptz)
returns jsonb
language sql stable as $$
    select p_known_at || coalesce(
        jsonb_object_agg(
            k, greatest((p_known_at->>k)::numeric, extract(epoch from p_at))
        ), '{}'
    )
    from jsonb_object_keys(p_known - 'created_at') as k
$$;

-- Writes a change of time p_at into one subscription. Creates the row if there is none. p_known has
-- the columns that the change states. p_mark asks for a refresh.
-- No webhook states all columns. So each column keeps the value of the newest change that stated it
-- (`known_at`), and the row ends the same in whichever order changes arrive. If two changes of the
-- same moment state different values, nobody can know their order: the row keeps the first value
-- and is marked, so that a refresh is due.
-- p_owned is when p_user owned the subscription; null: at p_at. If another user has the row, and
-- got it before that time, the row moves to p_user and takes all values that the change states.
-- Otherwise the row stays with the other user. The caller has locked both users (lock_with_owner).
create or replace function record_subscription(
    p_user text, p_id text, p_at timestamptz, p_known jsonb, p_mark boolean,
    p_owned timestamptz default null
) returns void
language plpgsql as $$
declare
    v_stated jsonb := p_known - 'created_at';
    v_old subscriptions;
    v_new subscriptions;
    v_change jsonb;
    v_tie boolean;
    v_changes boolean;
    v_owned timestamptz := coalesce(p_owned, p_at);
    v_created timestamptz := coalesce((p_known->>'created_at')::timestamptz, p_at);
begin
    insert into subscriptions (
        id, user_id, owned_at, status, created_at, changed_at, known_at, refresh_due, recheck_at,
        plan_id, plan_name, billing_interval, period_start, period_end,
        cancel_at_period_end, scheduled_change, trial_ends_at, checkout_url
    )
    values (
        p_id, p_user, v_owned, coalesce(p_known->>'status', 'unknown'), v_created,
        -- A change that only marks the row gets the oldest time: it states no column, so it must
        -- not count as newer than a change that does.
        case when v_stated = '{}' then timestamptz 'epoch' else p_at end,
        known_at_of('{}', p_known, p_at),
        case when p_mark or not p_known ? 'status' then now() end,
        now() + recheck_after(coalesce(p_known->>'status', 'unknown'), 0),
        p_known->>'plan_id', p_known->>'plan_name', p_known->>'billing_interval',
        (p_known->>'period_start')::timestamptz, (p_known->>'period_end')::timestamptz,
        coalesce((p_known->>'cancel_at_period_end')::boolean, false),
        nullif(p_known->'scheduled_change', 'null'),
        (p_known->>'trial_ends_at')::timestamptz, p_known->>'checkout_url'
    )
    on conflict (id) do nothing;
    if found then
        return;
    end if;

    v_old := (select s from subscriptions s where s.id = p_id for update);
    if v_old.user_id <> p_user and v_owned > coalesce(v_old.owned_at, '-infinity') then
        update subscriptions set
            user_id = p_user, owned_at = v_owned, known_at = '{}', confirmed_at = null,
            checked_at = null, checks = 0, background_checks = 0, refresh_due = now(),
            version = version + 1
        where id = p_id;
        v_old := (select n from subscriptions n where n.id = p_id);
    end if;
    select
        coalesce(jsonb_object_agg(s.key, s.value) filter (where s.age > 0), '{}'),
        coalesce(bool_or(s.age = 0 and s.plain is distinct from to_jsonb(v_old)->s.key), false)
    into v_change, v_tie
    from (
        select k.key, k.value, to_jsonb(jsonb_populate_record(v_old, v_stated))->k.key as plain,
               sign(
                   extract(epoch from p_at)
                   - coalesce((v_old.known_at->>k.key)::numeric, '-Infinity')
               ) as age  -- above 0: the change is newer than what is known
        from jsonb_each(v_stated) as k
    ) as s;
    v_new := jsonb_populate_record(v_old, v_change);

    v_changes := p_mark or v_tie or v_change <> '{}' or v_created < v_old.created_at;
    -- The version is raised, so that a refresh that is running does not clear the mark.
    update subscriptions set
        owned_at = case when user_id = p_user then greatest(owned_at, v_owned) else owned_at end,
        status = v_new.status, plan_id = v_new.plan_id, plan_name = v_new.plan_name,
        billing_interval = v_new.billing_interval, period_start = v_new.period_start,
        period_end = v_new.period_end, cancel_at_period_end = v_new.cancel_at_period_end,
        scheduled_change = v_new.scheduled_change,
        trial_ends_at = v_new.trial_ends_at, checkout_url = v_new.checkout_url,
        created_at = least(v_old.created_at, v_created),
        changed_at = case when v_stated = '{}' then changed_at else greatest(changed_at, p_at) end,
        known_at = known_at_of(known_at, v_change, p_at),
        version = version + v_changes::integer,
        checks = case when v_changes then 0 else checks end,
        background_checks = case when v_changes then 0 else background_checks end,
        refresh_due = case when p_mark or v_tie then least(refresh_due, now())
                           else refresh_due end
    where id = p_id and (v_changes or (user_id = p_user and v_owned > coalesce(owned_at, '-infinity')));
end
$$;

-- Locks a subscription's id, then p_user and the subscription's present owner. Returns the owner's
-- id; null if there is no such row. Users are locked in the order of their ids, as in every
-- statement about several users. The lock on the id keeps the owner from changing until the
-- statement ends, so the owner is read only once.
create or replace function lock_with_owner(p_user text, p_id text) returns text
language plpgsql as $$
declare
    v_owner text;
begin
    perform pg_advisory_xact_lock(hashtextextended(p_id, 0));
    v_owner := (select s.user_id from subscriptions s where s.id = p_id);
    perform from users where id in (p_user, v_owner) order by id for no key update;
    return v_owner;
end
$$;

-- Closes the user's open period if its subscription has ended or belongs to somebody else, because
-- nothing more may be counted in that period. The caller has locked the user.
create or replace function close_ended_period(p_user text, p_now timestamptz) returns void
language sql as $$
    update usage_period p set closed_at = p_now
    from subscriptions s
    where p.user_id = p_user and p.closed_at is null
      and s.id = p.subscription_id and (s.status = 'canceled' or s.user_id <> p_user)
$$;

-- Takes the entitlements from a user who has had no subscription since p_at. If the user has
-- another live subscription, marks that one instead, so that a refresh asks Commet for the
-- entitlements. The caller has locked the user.
create or replace function leave_entitlements(
    p_user text, p_at timestamptz, p_now timestamptz
) returns void
language plpgsql as $$
begin
    perform close_ended_period(p_user, p_now);
    update subscriptions set refresh_due = least(refresh_due, now()), version = version + 1
    where user_id = p_user and status in ('active', 'trialing', 'past_due', 'paused');
    if found or not exists (
        select from users
        where id = p_user and p_at >= coalesce(entitlements_at, '-infinity')
    ) then
        return;
    end if;
    perform keep_terms(p_user, p_now);
    perform record_entitlements(p_user, p_at, '[]');
    update users set entitlements_at = p_at where id = p_user;
end
$$;

-- Ends the user's live subscriptions whose status comes from a change before p_at.
create or replace function end_older(p_user text, p_at timestamptz) returns void
language sql as $$
    update subscriptions set
        status = 'canceled', changed_at = greatest(changed_at, p_at),
        version = version + 1, refresh_due = least(refresh_due, now())
    where user_id = p_user and status in ('active', 'trialing', 'past_due', 'paused')
      and coalesce((known_at->>'status')::numeric, '-Infinity') < extract(epoch from p_at)
$$;

-- Ends the subscriptions that a user had of a customer. Since p_at the customer is not the user's
-- any more. A refresh then asks Commet who has these subscriptions now, and moves them there. The
-- caller has locked the user.
create or replace function end_subscriptions(
    p_user text, p_at timestamptz, p_now timestamptz
) returns void
language plpgsql as $$
begin
    update users set unsubscribed_at = greatest(unsubscribed_at, p_at) where id = p_user;
    perform end_older(p_user, p_at);
    perform leave_entitlements(p_user, p_at, p_now);
end
$$;

-- Writes all that one change of time p_at says about a user into the mirror, under the user's lock.
-- If the subscription belonged to another user, it moves, under the locks of both users.
-- If the change may be about somebody else who has the user's address (awaits_customer), the
-- routine writes it only if it is about a subscription that the user already has.
-- p_change:
--   subscription  {"id", "known": {column: value}, "mark": bool} or null; "owned_at" beside them is
--                 the time at which Commet named the user as the owner, if that is not p_at
--   ends_all      true if Commet says that the customer has no subscription at all
--   features      the whole set of entitlements, or absent
--   period        {"start", "end", "subscription"} of the allowance, beside features, or absent
--   currency      in which the subscription is charged, or absent
--   payment       news about one payment trouble (routines/payments.sql), or absent
--   debt          what it says about the user's debts (record_debt_news), or absent
create or replace function record_change(
    p_user text, p_at timestamptz, p_change jsonb, p_now timestamptz
)
returns void
language plpgsql as $$
declare
    v_subscription jsonb := p_change->'subscription';
    v_id text := p_change->'subscription'->>'id';
    v_owned timestamptz := coalesce((p_change->'subscription'->>'owned_at')::timestamptz, p_at);
    v_owner text;
    v_user record;
begin
    -- One writer per user: the statements below read and write several rows of the user.
    v_owner := lock_with_owner(p_user, v_id);
    if awaits_customer(p_user) and v_owner is distinct from p_user then
        return;
    end if;
    select u.unsubscribed_at, u.entitlements_at into v_user from users u where u.id = p_user;

    if v_id is not null then
        perform record_subscription(
            p_user, v_id, p_at, v_subscription->'known',
            coalesce((v_subscription->>'mark')::boolean, false), v_owned
        );
    end if;
    if v_owner <> p_user
       and exists (select from subscriptions s where s.id = v_id and s.user_id = p_user) then
        perform leave_entitlements(v_owner, v_owned, p_now);
    end if;
    if p_change ? 'payment' then
        perform record_payment_trouble(p_user, p_at, p_change->'payment');
    end if;
    if coalesce((p_change->>'ends_all')::boolean, false)
       and p_at > coalesce(v_user.unsubscribed_at, '-infinity') then
        v_user.unsubscribed_at := p_at;
        update users set unsubscribed_at = p_at where id = p_user;
    end if;
    -- "No subscription at all" ends every subscription whose status comes from a change before that
    -- news, even if that change arrives later. A refresh will find out how they ended.
    perform end_older(p_user, v_user.unsubscribed_at);
    -- If a status has exactly the time of that news, nobody can know the order, so a refresh is
    -- due.
    update subscriptions set refresh_due = least(refresh_due, now()), version = version + 1
    where user_id = p_user and status in ('active', 'trialing', 'past_due', 'paused')
      and v_user.unsubscribed_at = p_at
      and (known_at->>'status')::numeric = extract(epoch from p_at);

    if p_change ? 'features' and p_at >= coalesce(v_user.entitlements_at, '-infinity')
       -- If another user has the subscription by now, the entitlements belong to that user too.
       and not exists (select from subscriptions s where s.id = v_id and s.user_id <> p_user) then
        if p_at = v_user.entitlements_at and entitlements_differ(p_user, p_change->'features') then
            update subscriptions set
                refresh_due = least(refresh_due, now()), version = version + 1
            where user_id = p_user and status <> 'canceled';
        end if;
        perform keep_terms(p_user, p_now);
        perform record_entitlements(p_user, p_at, p_change->'features');
        perform note_currency(
            p_user, p_change->'period'->>'subscription', (
                select min(f->>'currency') from jsonb_array_elements(p_change->'features') as f
            )
        );
        update users set entitlements_at = p_at where id = p_user;
        perform record_period(
            p_user, s.id, s.plan_id, s.billing_interval is null,
            (p_change->'period'->>'start')::timestamptz,
            (p_change->'period'->>'end')::timestamptz, p_now, v_user.entitlements_at
        )
        from subscriptions s
        where s.id = p_change->'period'->>'subscription' and s.user_id = p_user
          and s.status <> 'canceled'
          -- Open no period for a plan that is known to end before the period begins.
          and not coalesce(plan_end(
              s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at, s.plan_id,
              s.scheduled_change
          ) <= (p_change->'period'->>'start')::timestamptz, false);
        perform look_at_usage_again(p_user, p_now);
    end if;
    perform note_currency(p_user, v_id, p_change->>'currency');
    perform close_ended_period(p_user, p_now);
    -- If a live subscription has no open period, none of its usage can be counted. So a refresh is
    -- due, which brings the entitlements and the period.
    update subscriptions s set refresh_due = least(s.refresh_due, now())
    where s.id = v_id and s.user_id = p_user and s.status in ('active', 'trialing', 'past_due')
      and not exists (
          select from usage_period p where p.user_id = p_user and p.closed_at is null
      );
    if p_change ? 'debt' then
        perform record_debt_news(p_user, p_change->'debt', p_now);
    end if;
    -- In the order of the ids, in which place_events locks the same rows of `told`.
    perform tell_subscription(o.id, p_now)
    from (select distinct u.id from unnest(array[p_user, v_owner]) as u (id)
          where u.id is not null order by u.id) as o;
end
$$;
