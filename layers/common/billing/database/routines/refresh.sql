-- What Commet itself answers, and when it is to be asked.

-- Whether what is said of some columns is not what a row holds.
create or replace function says_otherwise(s subscriptions, p_said jsonb) returns boolean
language sql stable as $$
    select exists (
        select
        from jsonb_object_keys(p_said - 'created_at') as k (key)
        where to_jsonb(jsonb_populate_record(s, p_said - 'created_at'))->k.key
              is distinct from to_jsonb(s)->k.key
    )
$$;

-- Writes what Commet itself answered about a subscription, unless something newer arrived while
-- we were asking (then the row is marked). p_known holds every column Commet speaks of. Not every
-- event changes the subscription it tells of, so an answer that is older than the newest event
-- still counts where it contradicts no newer word on a column; and one that was asked for long
-- after that event counts in any case.
-- Answers 'stale' where it was not written, 'healed' where the row was wrong, else 'confirmed'.
create or replace function confirm_answer(
    p_id text, p_version bigint, p_at timestamptz, p_asked_at timestamptz, p_known jsonb,
    p_lag interval
) returns text
language plpgsql as $$
declare
    v_old subscriptions;
    v_wrong boolean;
    v_same_doubt boolean;
begin
    v_old := (select s from subscriptions s where s.id = p_id for update);
    -- Old news may fill in what is not known, but not contradict what is.
    if v_old.version is distinct from p_version or (
        p_asked_at < v_old.event_at + interval '10 minutes'
        and says_otherwise(v_old, (
            select jsonb_object_agg(said.key, said.value)
            from jsonb_each(p_known) as said
            where (v_old.known_at->>said.key)::numeric > extract(epoch from p_at + p_lag)
              and said.value <> 'null' and to_jsonb(v_old)->said.key <> 'null'
              and said.key not in ('plan_name', 'trial_ends_at', 'checkout_url')
        ))
    ) then
        update subscriptions set refresh_due = least(refresh_due, now()) where id = p_id;
        return 'stale';
    end if;
    v_wrong := says_otherwise(v_old, p_known);
    -- Asking about the same unpaid checkout, or the same renewal that does not come, is spaced out
    -- further each time.
    v_same_doubt := p_known->>'status' = v_old.status and (
        v_old.status in ('pending_payment', 'draft', 'unknown')
        or (p_known->>'period_end')::timestamptz <= p_asked_at
    );
    update subscriptions set
        status = p_known->>'status', plan_id = p_known->>'plan_id',
        plan_name = p_known->>'plan_name', billing_interval = p_known->>'billing_interval',
        period_start = (p_known->>'period_start')::timestamptz,
        period_end = (p_known->>'period_end')::timestamptz,
        cancel_at_period_end = (p_known->>'cancel_at_period_end')::boolean,
        trial_ends_at = (p_known->>'trial_ends_at')::timestamptz,
        checkout_url = p_known->>'checkout_url',
        event_at = greatest(event_at, p_at),
        -- Newer than an older word that there is no subscription at all.
        known_at = known_at_of(known_at, p_known, p_at) || jsonb_build_object(
            'status', greatest((known_at->>'status')::numeric, extract(epoch from greatest(p_at, (
                select unsubscribed_at from users where id = v_old.user_id
            ))))
        ),
        version = version + 1, confirmed_at = now(), checked_at = now(), refresh_due = null,
        recheck_at = now() + recheck_after(p_known->>'status', background_checks),
        checks = case when v_same_doubt then checks else 0 end,
        background_checks = case when v_same_doubt then background_checks else 0 end
    where id = p_id;
    return case when v_wrong then 'healed' else 'confirmed' end;
end
$$;

-- How long the schedule leaves a row alone while nothing happens: a day, give or take a tenth.
-- Checkouts are mostly abandoned, not paid without our hearing of it: one is asked about at once
-- and then at pauses that double, from ten seconds to a month.
create or replace function recheck_after(p_status text, p_checks integer) returns interval
language sql volatile as $$
    select (0.9 + 0.2 * random()) * case
        when p_status not in ('pending_payment', 'draft', 'unknown') then interval '1 day'
        when p_checks = 0 then interval '0'
        else least(interval '10 seconds' * 2 ^ least(p_checks, 20), interval '30 days')
    end
$$;

-- Commet does not know a subscription that is recorded here, so its row is left as it is, and asked
-- about as rarely as one that is well.
create or replace function keep_unknown(p_id text, p_version bigint) returns void
language sql as $$
    update subscriptions set
        checked_at = now(), refresh_due = null, recheck_at = now() + recheck_after('active', 0),
        -- What is live here was not confirmed by that; that nothing was paid, was.
        confirmed_at = case when status in ('active', 'trialing', 'past_due', 'paused')
                            then confirmed_at else now() end
    where id = p_id and version = p_version
$$;

-- Whether something about the row is not known that could change an answer we give: it is marked,
-- a checkout may have been paid, or a period ended (or none was heard of yet) without news.
create or replace function is_in_doubt(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select coalesce(
        s.refresh_due is not null
        or (s.status in ('pending_payment', 'draft', 'unknown')
            and s.created_at > p_now - interval '1 day')
        or (s.status in ('active', 'trialing', 'past_due', 'paused') and s.period_end <= p_now)
        or (s.status in ('active', 'trialing', 'past_due')
            and s.period_end is null and not s.known_at ? 'period_end'),
        false
    )
$$;

-- Whether the mirror may be wrong about the user although no row of theirs shows it: the user was
-- sent to Commet's portal, say, and an answer is good for ten seconds until that is over.
create or replace function is_user_in_doubt(u users) returns boolean
language sql stable as $$
    select coalesce(
        u.doubted_until > now()
        and coalesce(u.answered_at < now() - interval '10 seconds', true),
        false
    )
$$;

-- Whether a question about a user in doubt may be asked now: none was asked for ten seconds.
create or replace function may_ask_about(u users) returns boolean
language sql stable as $$
    select is_user_in_doubt(u) and coalesce(u.asked_at < now() - interval '10 seconds', true)
$$;

-- When somebody who waits may have Commet asked about this row again, null where nobody has. The
-- pause grows from ten seconds to ten minutes (to one, where the end of the subscription is known:
-- what is left may be used as long as answers are that young) and starts anew when news arrives.
create or replace function next_question(s subscriptions) returns timestamptz
language sql stable as $$
    select s.checked_at + least(
        case when s.cancel_at_period_end or s.status = 'trialing' then interval '1 minute'
             else interval '10 minutes' end,
        interval '10 seconds' * 2 ^ least(greatest(s.checks - 1, 0), 6)
    )
$$;

-- Whether Commet is to be asked about this row now, for somebody who waits: it is in doubt, or is
-- live and was not confirmed for a day.
create or replace function refresh_is_due(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select (is_in_doubt(s, p_now) or (
               s.status in ('active', 'trialing', 'past_due', 'paused') and s.recheck_at <= now()
           )) and coalesce(next_question(s) <= now(), true)
$$;

-- How long the schedule waits for news, after asking so many times, before it asks again.
create or replace function background_pause(s subscriptions) returns interval
language sql volatile as $$
    select case when s.status in ('pending_payment', 'draft', 'unknown')
                then recheck_after(s.status, s.background_checks + 1)
                else least(
                    interval '10 minutes', interval '10 seconds' * 2 ^ least(s.background_checks, 6)
                ) end
$$;

-- When the schedule asks about this row by itself, null where it does not.
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

-- One question about a user at a time, and none within ten seconds of the last.
create or replace function was_just_asked(s subscriptions) returns boolean
language sql stable as $$
    select s.checked_at is not null and s.checked_at > now() - interval '10 seconds'
$$;

-- Takes the right to ask Commet about somebody: up to p_limit users, those in doubt before those
-- who are merely due, none who was asked about in the last ten seconds, and of each all rows. Each
-- reason has its own index, and a row that was asked about leaves it until its pause is over (only
-- one whose period has ended does not), so rows that are well or wait are not looked at.
create or replace function claim_refreshes(p_now timestamptz, p_limit integer)
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
    claimed as (
        update subscriptions s set
            checked_at = now(), background_checks = s.background_checks + 1,
            refresh_due = case when s.refresh_due is not null then now() + background_pause(s) end,
            recheck_at = greatest(s.recheck_at, now() + background_pause(s))
        from taken
        where s.user_id = taken.id and not was_just_asked(s)
          and (s.status <> 'canceled' or s.refresh_due is not null)
        returning s.user_id
    )
    select distinct c.user_id from claimed c;
end
$$;
