-- How news about a customer becomes state. Webhooks, checkout answers and refreshes all come
-- through here, in one statement each, so any of them may come first, twice or late.
--
-- These are functions and not statements in Python because several tables change together,
-- guarded by what they hold, and one statement is the only unit that neither a crash nor a
-- second caller can tear (docs/decisions/0004).

-- Who an event speaks of: our id where the customer was created with one, else Commet's.
create or replace function find_user(p_customer text) returns text
language sql stable as $$
    select id from users where id = p_customer
    union all
    select id from users where commet_customer_id = p_customer
    limit 1
$$;

-- A period of Commet's that we hear of only now began at p_start: what was sent since then, and
-- counted in another one, may be booked in it. The totals will tell (comparing.py). The minute is the
-- margin within which deliveries around the end of a period are in doubt from the start, and covers
-- clocks that differ.
create or replace function doubt_deliveries(p_user text, p_start timestamptz) returns void
language sql as $$
    update usage_delivery d set billed_period = null, compare_at = now(), doubted_at = now()
    from usage_period p
    where p.user_id = p_user and p.closed_at > p_start - interval '1 minute'
      and d.period = p.id and d.billed_period = p.id
      and d.state = 'sent' and d.kind = 'event' and d.compare_at is null
      and d.answered_at > p_start - interval '1 minute'
$$;

-- Opens the period usage is counted in, or confirms the open one. Older news changes nothing.
create or replace function record_period(
    p_user text, p_subscription text, p_plan text, p_start timestamptz, p_end timestamptz,
    p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_open record;
begin
    select p.id, p.subscription_id, p.plan_id, p.starts_at, p.ends_at, p.provisional into v_open
    from usage_period p
    where p.user_id = p_user and p.closed_at is null
    for update;

    if found then
        if v_open.subscription_id = p_subscription and v_open.starts_at = p_start
           and v_open.plan_id is not distinct from coalesce(p_plan, v_open.plan_id) then
            update usage_period set ends_at = p_end, provisional = false
            where id = v_open.id and (ends_at <> p_end or provisional);
            return;
        end if;
        if p_end <= v_open.starts_at
           or (p_start < v_open.starts_at and not v_open.provisional) then
            return;  -- news of an earlier period
        end if;
        -- What we opened ourselves was a guess. Where Commet's period began is corrected in place:
        -- a new period would give away a new allowance for what has been used since.
        if v_open.provisional and v_open.subscription_id = p_subscription
           and v_open.plan_id is not distinct from coalesce(p_plan, v_open.plan_id)
           and p_start < v_open.ends_at then
            update usage_period set starts_at = p_start, ends_at = p_end, provisional = false
            where id = v_open.id;
            perform doubt_deliveries(p_user, p_start);
            return;
        end if;
        update usage_period set closed_at = p_now where id = v_open.id;
    else
        -- A subscription that was over for a moment comes back in the period it left.
        update usage_period set closed_at = null, ends_at = p_end
        where id = (
            select id from usage_period
            where user_id = p_user and subscription_id = p_subscription
              and plan_id is not distinct from p_plan and starts_at = p_start
            order by id desc limit 1
        );
        if found or exists (
            select from usage_period where user_id = p_user and starts_at > p_start
        ) then
            return;
        end if;
    end if;

    insert into usage_period (user_id, subscription_id, plan_id, starts_at, ends_at)
    values (p_user, p_subscription, p_plan, p_start, p_end);
    perform doubt_deliveries(p_user, p_start);
end
$$;

-- Replaces what a user is entitled to. A feature that is no longer listed stays as a row that
-- allows nothing: were it deleted, older news could bring it back.
create or replace function record_entitlements(p_user text, p_at timestamptz, p_features jsonb) returns void
language plpgsql as $$
begin
    insert into entitlements as e (
        user_id, feature, name, unit, type, model, allowed, included, unlimited,
        overage_enabled, unit_price, currency, event_at
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
        -- A price seen once is kept where later news leaves it out.
        unit_price = coalesce(excluded.unit_price, e.unit_price),
        currency = coalesce(excluded.currency, e.currency),
        event_at = excluded.event_at, version = e.version + 1
    where excluded.event_at >= e.event_at;  -- always so: record_change turns older sets away

    update entitlements set
        allowed = false, included = 0, unlimited = false, overage_enabled = false,
        event_at = p_at, version = version + 1
    where user_id = p_user and event_at < p_at
      and not exists (
          select from jsonb_array_elements(p_features) as f where f->>'feature' = feature
      );
end
$$;

-- Whether an equally old set of entitlements says something else than what is recorded.
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

-- `told` after news of p_at that speaks of the columns in p_known.
create or replace function known_at_of(p_known_at jsonb, p_known jsonb, p_at timestamptz) returns jsonb
language sql stable as $$
    select p_known_at || coalesce(
        jsonb_object_agg(
            k, greatest((p_known_at->>k)::numeric, extract(epoch from p_at))
        ), '{}'
    )
    from jsonb_object_keys(p_known - 'created_at') as k
$$;

-- Applies one subscription's news. A key that is absent from p_known says nothing.
-- No event tells everything, so every column keeps the newest word on it: the row ends the same in
-- whichever order its news arrive. Change of the same moment fill what nobody spoke of, and where
-- they contradict what is known the row is marked, because no order can be told.
create or replace function record_subscription(
    p_user text, p_id text, p_at timestamptz, p_known jsonb, p_mark boolean
) returns void
language plpgsql as $$
declare
    v_said jsonb := p_known - 'created_at';
    v_old subscriptions;
    v_new subscriptions;
    v_change jsonb;
    v_tie boolean;
    v_created timestamptz := coalesce((p_known->>'created_at')::timestamptz, p_at);
begin
    insert into subscriptions (
        id, user_id, status, created_at, event_at, known_at, refresh_due, recheck_at,
        plan_id, plan_name, billing_interval, period_start, period_end,
        cancel_at_period_end, trial_ends_at, checkout_url
    )
    values (
        p_id, p_user, coalesce(p_known->>'status', 'unknown'), v_created,
        -- A mark alone is older than any news that carries state.
        case when v_said = '{}' then timestamptz 'epoch' else p_at end,
        known_at_of('{}', p_known, p_at),
        case when p_mark or not p_known ? 'status' then now() end,
        now() + recheck_after(coalesce(p_known->>'status', 'unknown'), 0),
        p_known->>'plan_id', p_known->>'plan_name', p_known->>'billing_interval',
        (p_known->>'period_start')::timestamptz, (p_known->>'period_end')::timestamptz,
        coalesce((p_known->>'cancel_at_period_end')::boolean, false),
        (p_known->>'trial_ends_at')::timestamptz, p_known->>'checkout_url'
    )
    on conflict (id) do nothing;
    if found then
        return;
    end if;

    v_old := (select s from subscriptions s where s.id = p_id for update);
    if v_old.user_id <> p_user then
        raise exception 'The subscription belongs to another user.';
    end if;
    select
        coalesce(jsonb_object_agg(s.key, s.value) filter (where s.age > 0), '{}'),
        coalesce(bool_or(s.age = 0 and s.plain is distinct from to_jsonb(v_old)->s.key), false)
    into v_change, v_tie
    from (
        select k.key, k.value, to_jsonb(jsonb_populate_record(v_old, v_said))->k.key as plain,
               sign(extract(epoch from p_at) - coalesce((v_old.known_at->>k.key)::numeric, '-Infinity'))
                   as age
        from jsonb_each(v_said) as k
    ) as s;
    v_new := jsonb_populate_record(v_old, v_change);

    -- The version moves so that a refresh that is under way does not take a mark away.
    update subscriptions set
        status = v_new.status, plan_id = v_new.plan_id, plan_name = v_new.plan_name,
        billing_interval = v_new.billing_interval, period_start = v_new.period_start,
        period_end = v_new.period_end, cancel_at_period_end = v_new.cancel_at_period_end,
        trial_ends_at = v_new.trial_ends_at, checkout_url = v_new.checkout_url,
        created_at = least(v_old.created_at, v_created),
        event_at = case when v_said = '{}' then event_at else greatest(event_at, p_at) end,
        known_at = known_at_of(known_at, v_change, p_at), version = version + 1, checks = 0,
        background_checks = 0,
        refresh_due = case when p_mark or v_tie then least(refresh_due, now())
                           else refresh_due end
    where id = p_id and (p_mark or v_tie or v_change <> '{}' or v_created < v_old.created_at);
end
$$;

-- Applies everything one piece of news says about a user. p_change:
--   subscription  {"id", "known": {column: value}, "mark": bool} or null
--   ends_all      true when Commet says the customer has no subscription at all
--   features      the whole set of entitlements, or absent
--   period        {"start", "end", "subscription"} of the allowance, beside features, or absent
create or replace function record_change(p_user text, p_at timestamptz, p_change jsonb, p_now timestamptz)
returns void
language plpgsql as $$
declare
    v_subscription jsonb := p_change->'subscription';
    v_id text := p_change->'subscription'->>'id';
    v_user record;
begin
    -- One writer per user: what follows reads and writes several of their rows.
    select u.unsubscribed_at, u.entitlements_at into v_user
    from users u
    where u.id = p_user
    for no key update;

    if v_id is not null then
        perform record_subscription(
            p_user, v_id, p_at, v_subscription->'known',
            coalesce((v_subscription->>'mark')::boolean, false)
        );
    end if;
    if coalesce((p_change->>'ends_all')::boolean, false)
       and p_at > coalesce(v_user.unsubscribed_at, '-infinity') then
        v_user.unsubscribed_at := p_at;
        update users set unsubscribed_at = p_at where id = p_user;
    end if;
    -- "No subscription at all" ends what was live before, those we had not heard of included. How
    -- they ended is to be asked.
    update subscriptions set
        status = 'canceled', event_at = greatest(event_at, v_user.unsubscribed_at),
        version = version + 1, refresh_due = least(refresh_due, now())
    where user_id = p_user and status in ('active', 'trialing', 'past_due', 'paused')
      and coalesce((known_at->>'status')::numeric, '-Infinity')
          < extract(epoch from v_user.unsubscribed_at);
    update subscriptions set refresh_due = least(refresh_due, now()), version = version + 1
    where user_id = p_user and status in ('active', 'trialing', 'past_due', 'paused')
      and v_user.unsubscribed_at = p_at
      and (known_at->>'status')::numeric = extract(epoch from p_at);

    if p_change ? 'features' and p_at >= coalesce(v_user.entitlements_at, '-infinity') then
        if p_at = v_user.entitlements_at and entitlements_differ(p_user, p_change->'features') then
            update subscriptions set
                refresh_due = least(refresh_due, now()), version = version + 1
            where user_id = p_user and status <> 'canceled';
        end if;
        perform keep_terms(p_user, p_now);
        perform record_entitlements(p_user, p_at, p_change->'features');
        update users set entitlements_at = p_at where id = p_user;
        perform record_period(
            p_user, s.id, s.plan_id, (p_change->'period'->>'start')::timestamptz,
            (p_change->'period'->>'end')::timestamptz, p_now
        )
        from subscriptions s
        where s.id = p_change->'period'->>'subscription' and s.user_id = p_user
          and s.status <> 'canceled'
          -- No period is opened for a subscription that is known to end before it.
          and not coalesce(known_end(
              s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at
          ) <= (p_change->'period'->>'start')::timestamptz, false);
    end if;
    -- The subscription is over: nothing more may be counted in its period.
    update usage_period p set closed_at = p_now
    from subscriptions s
    where p.user_id = p_user and p.closed_at is null
      and s.id = p.subscription_id and s.status = 'canceled';
    -- A live one without a period cannot count anything: ask what it is entitled to.
    update subscriptions s set refresh_due = least(s.refresh_due, now())
    where s.id = v_id and s.status in ('active', 'trialing', 'past_due')
      and not exists (
          select from usage_period p where p.user_id = p_user and p.closed_at is null
      );
end
$$;
