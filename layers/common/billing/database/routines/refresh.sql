-- Refreshes: when Commet is asked about a subscription, and how its answer is written.
--
-- A *live* subscription is active, trialing, past_due or paused. A row is *marked* if `refresh_due`
-- is not null: something in the row is known to be missing or wrong. There are two kinds of callers
-- that ask Commet: a request, for somebody who waits, and the schedule, in the background. Each
-- kind has its own pauses between questions, calculated from `checks` and `background_checks`.

-- Returns whether Commet states a value for a column that differs from the row's value. p_stated
-- has the stated columns. `created_at` is not compared.
create or replace function says_otherwise(s subscriptions, p_stated jsonb) returns boolean
language sql stable as $$
    select exists (
        select
        from jsonb_object_keys(p_stated - 'created_at') as k (key)
        where to_jsonb(jsonb_populate_record(s, p_stated - 'created_at'))->k.key
              is distinct from to_jsonb(s)->k.key
    )
$$;

-- Writes Commet's answer about a subscription into its row. Returns 'healed' if the row was wrong,
-- 'confirmed' if it was right, and 'stale' if the answer was not written. A stale answer marks the
-- row, so that Commet is asked again. p_known has every column that the answer states. p_at is the
-- answer's own time, and p_asked_at the time of the question. p_version is the row's version before
-- the question.
-- An answer is stale if the row changed since the question. It is also stale if it contradicts a
-- column that a change later than p_at + p_lag stated, unless the question was asked ten minutes or
-- more after the newest change. An answer older than the newest change can still be right, because
-- not every webhook comes from a change of the subscription (docs/decisions/0005).
create or replace function confirm_answer(
    p_id text, p_version bigint, p_at timestamptz, p_asked_at timestamptz, p_known jsonb,
    p_lag interval
) returns text
language plpgsql as $$
declare
    v_old subscriptions;
    v_wrong boolean;
    v_still_open boolean;
begin
    -- The user is locked first, as in every routine: outgoing events about the change are emitted
    -- under the user's lock.
    perform from users u join subscriptions s on s.user_id = u.id where s.id = p_id
    for no key update of u;
    v_old := (select s from subscriptions s where s.id = p_id for update);
    if v_old.version is distinct from p_version or (
        p_asked_at < v_old.changed_at + interval '10 minutes'
        and says_otherwise(v_old, (
            -- An older answer may fill in a column that is null, and may leave a column out. One
            -- column is always compared: an answer without a scheduled change of plan says that
            -- none is booked.
            select jsonb_object_agg(stated.key, stated.value)
            from jsonb_each(p_known) as stated
            where (v_old.known_at->>stated.key)::numeric > extract(epoch from p_at + p_lag)
              and (stated.key = 'scheduled_change' or (
                  stated.value <> 'null' and to_jsonb(v_old)->stated.key <> 'null'
              ))
              and stated.key not in ('plan_name', 'trial_ends_at', 'checkout_url')
        ))
    ) then
        update subscriptions set refresh_due = least(refresh_due, now()) where id = p_id;
        return 'stale';
    end if;
    v_wrong := says_otherwise(v_old, p_known);
    -- If the same checkout is still unpaid, or the same renewal has not come, the counts are not
    -- set back, so the pauses between questions grow.
    v_still_open := p_known->>'status' = v_old.status and (
        v_old.status in ('pending_payment', 'draft', 'unknown')
        or (p_known->>'period_end')::timestamptz <= p_asked_at
    );
    update subscriptions set
        status = p_known->>'status', plan_id = p_known->>'plan_id',
        plan_name = p_known->>'plan_name', billing_interval = p_known->>'billing_interval',
        period_start = (p_known->>'period_start')::timestamptz,
        period_end = (p_known->>'period_end')::timestamptz,
        cancel_at_period_end = (p_known->>'cancel_at_period_end')::boolean,
        scheduled_change = nullif(p_known->'scheduled_change', 'null'),
        trial_ends_at = (p_known->>'trial_ends_at')::timestamptz,
        checkout_url = p_known->>'checkout_url',
        changed_at = greatest(changed_at, p_at), owned_at = greatest(owned_at, p_asked_at),
        -- The status counts as newer than a change that said "no subscription at all", because
        -- Commet has just answered that there is one.
        known_at = known_at_of(known_at, p_known, p_at) || jsonb_build_object(
            'status', greatest((known_at->>'status')::numeric, extract(epoch from greatest(p_at, (
                select unsubscribed_at from users where id = v_old.user_id
            ))))
        ),
        version = version + 1, confirmed_at = now(), checked_at = now(), unknown_at = null,
        refresh_due = null,
        recheck_at = now() + recheck_after(p_known->>'status', background_checks),
        checks = case when v_still_open then checks else 0 end,
        background_checks = case when v_still_open then background_checks else 0 end
    where id = p_id;
    perform tell_subscription(v_old.user_id, p_asked_at);
    return case when v_wrong then 'healed' else 'confirmed' end;
end
$$;

-- Returns how long the schedule waits before it asks about a row to which nothing happens: a day,
-- more or less a tenth. About an unpaid checkout the schedule asks at once, and then after pauses
-- that double from ten seconds to 30 days: most unpaid checkouts are abandoned, and a webhook
-- reports nearly every payment.
create or replace function recheck_after(p_status text, p_checks integer) returns interval
language sql volatile as $$
    select (0.9 + 0.2 * random()) * case
        when p_status not in ('pending_payment', 'draft', 'unknown') then interval '1 day'
        when p_checks = 0 then interval '0'
        else least(interval '10 seconds' * 2 ^ least(p_checks, 20), interval '30 days')
    end
$$;

-- Records that Commet answered 404 about a subscription. The columns that Commet states do not
-- change, and the next question follows after a day, as for a row that was confirmed. Does nothing
-- if the row changed meanwhile.
create or replace function keep_unknown(p_id text, p_version bigint) returns void
language sql as $$
    update subscriptions set
        checked_at = now(), unknown_at = now(), refresh_due = null,
        recheck_at = now() + recheck_after('active', 0),
        -- A 404 does not confirm a live subscription. But it confirms that a checkout was not paid.
        confirmed_at = case when status in ('active', 'trialing', 'past_due', 'paused')
                            then confirmed_at else now() end
    where id = p_id and version = p_version
$$;

-- Returns whether the mirror may be wrong about this row in a way that changes the answer to a
-- request. It may if the row is marked, if a checkout of the last day may have been paid, or if a
-- live subscription's period or plan has ended or its period was never reported.
create or replace function is_in_doubt(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select coalesce(
        s.refresh_due is not null
        or (s.status in ('pending_payment', 'draft', 'unknown')
            and s.created_at > p_now - interval '1 day')
        or (s.status in ('active', 'trialing', 'past_due', 'paused')
            and (s.period_end <= p_now or plan_end(
                s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at, s.plan_id,
                s.scheduled_change
            ) <= p_now))
        or (s.status in ('active', 'trialing', 'past_due')
            and s.period_end is null and not s.known_at ? 'period_end'),
        false
    )
$$;

-- Returns whether the mirror may be wrong about the user although no row shows it, for example
-- because the user was sent to Commet's portal. In this time an answer of Commet counts as valid
-- for ten seconds, but not if Commet was asked before the user was sent there.
create or replace function is_user_in_doubt(u users) returns boolean
language sql stable as $$
    select coalesce(
        u.doubted_until > now()
        and coalesce(
            u.answered_at < greatest(now() - interval '10 seconds', u.doubted_at), true
        ),
        false
    )
$$;

-- Returns whether Commet may be asked now about a user in doubt. It may be asked once in ten
-- seconds, and once more after the user got a link to Commet's portal or recovery page.
create or replace function may_ask_about(u users) returns boolean
language sql stable as $$
    select is_user_in_doubt(u) and coalesce(
        u.asked_at < greatest(now() - interval '10 seconds', u.doubted_at), true
    )
$$;

-- Returns when a request may ask Commet about this row again; null if nobody has asked yet. The
-- pause grows from ten seconds to ten minutes. If the subscription or its plan has a known end, the
-- pause grows to one minute only, because after that end an answer must be at most a minute old. A change of
-- the row sets the pause back to ten seconds.
create or replace function next_question(s subscriptions) returns timestamptz
language sql stable as $$
    select s.checked_at + least(
        case when s.cancel_at_period_end or s.status = 'trialing'
                  or s.scheduled_change->>'plan_id' <> s.plan_id then interval '1 minute'
             else interval '10 minutes' end,
        interval '10 seconds' * 2 ^ least(greatest(s.checks - 1, 0), 6)
    )
$$;

-- Returns whether a request should ask Commet about this row now. It should if the pause is over,
-- and the row is in doubt, or is live and was not confirmed for a day.
create or replace function refresh_is_due(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select (is_in_doubt(s, p_now) or (
               s.status in ('active', 'trialing', 'past_due', 'paused') and s.recheck_at <= now()
           )) and coalesce(next_question(s) <= now(), true)
$$;

-- Returns how long the schedule waits before it asks about this row again. The pause grows with
-- each question that changed nothing.
create or replace function background_pause(s subscriptions) returns interval
language sql volatile as $$
    select case when s.status in ('pending_payment', 'draft', 'unknown')
                then recheck_after(s.status, s.background_checks + 1)
                else least(
                    interval '10 minutes', interval '10 seconds' * 2 ^ least(s.background_checks, 6)
                ) end
$$;

-- Returns when the schedule will ask about this row, null if it will not.
create or replace function schedule_asks_at(s subscriptions, p_now timestamptz)
returns timestamptz
language sql volatile as $$
    select least(
        s.refresh_due,
        case when s.status <> 'canceled' then s.recheck_at end,
        case when s.status in ('active', 'trialing', 'past_due') and (
            s.period_end <= p_now or (s.period_end is null and not s.known_at ? 'period_end')
        ) then coalesce(s.checked_at + background_pause(s), now()) end
    )
$$;

-- Returns whether Commet was asked about this row in the last ten seconds. Nobody asks again within
-- that time, so that two callers never ask about a user at once.
create or replace function was_just_asked(s subscriptions) returns boolean
language sql stable as $$
    select s.checked_at is not null and s.checked_at > now() - interval '10 seconds'
$$;

-- Chooses up to p_limit users about whom the schedule should ask Commet now, and writes into all
-- their rows that it asks. Returns the users' ids. Rows in doubt come before rows that are due for
-- the daily check. Users about whom Commet was asked in the last ten seconds, and users that
-- another statement has locked, are left out.
-- Each reason to ask has its own index. A row that was asked about is not in the index until its
-- pause is over, except if its period has ended. So the query reads no rows without a reason, and
-- no rows that wait.
create or replace function lease_refreshes(p_now timestamptz, p_limit integer)
returns setof text
language plpgsql as $$
begin
    return query
    with due as (
        (select d.user_id, 1 as rank, d.refresh_due as since from subscriptions d
         where d.refresh_due <= now() and not was_just_asked(d)
         order by d.refresh_due limit p_limit * 4)
        union all
        (select d.user_id, 1, d.period_end from subscriptions d
         where d.status in ('active', 'trialing', 'past_due') and d.period_end <= p_now
           and not was_just_asked(d)
           and coalesce(d.checked_at + background_pause(d) <= now(), true)
         order by d.period_end limit p_limit * 4)
        union all
        (select d.user_id, 1, d.created_at from subscriptions d
         where d.status in ('active', 'trialing', 'past_due') and d.period_end is null
           and not d.known_at ? 'period_end'
           and coalesce(d.checked_at + background_pause(d) <= now(), true)
         limit p_limit * 4)
        union all
        (select d.user_id, 2, d.recheck_at from subscriptions d
         where d.status <> 'canceled' and d.recheck_at <= now() and not was_just_asked(d)
         order by d.recheck_at limit p_limit * 4)
    ),
    users_due as (
        select d.user_id
        from due d
        where not exists (
            select from subscriptions o where o.user_id = d.user_id and was_just_asked(o)
        )
        group by d.user_id
        order by min(d.rank), min(d.since)
        limit p_limit
    ),
    taken as (
        select u.id from users u join users_due d on d.user_id = u.id
        order by u.id
        for no key update of u skip locked
    ),
    leased as (
        update subscriptions s set
            checked_at = now(), background_checks = s.background_checks + 1,
            refresh_due = case when s.refresh_due is not null then now() + background_pause(s) end,
            recheck_at = greatest(s.recheck_at, now() + background_pause(s))
        from taken
        where s.user_id = taken.id and not was_just_asked(s)
          and (s.status <> 'canceled' or s.refresh_due is not null)
        returning s.user_id
    )
    select distinct l.user_id from leased l;
end
$$;
