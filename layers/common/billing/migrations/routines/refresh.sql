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
-- we were asking (then the row stays marked). p_known holds every column Commet speaks of.
-- Not every event changes the subscription it tells of, so an answer that is older than the newest
-- event still counts where it contradicts nothing that is known.
-- Answers 'stale' where it was not written, 'healed' where the row was wrong, else 'confirmed'.
create or replace function confirm_answer(
    p_id text, p_version bigint, p_at timestamptz, p_known jsonb, p_lag interval
) returns text
language plpgsql as $$
declare
    v_old subscriptions;
begin
    select * into v_old from subscriptions where id = p_id for update;
    if not found or v_old.version <> p_version then
        return 'stale';
    end if;
    -- Old news may fill in what is not known, but not contradict what is.
    if p_at < v_old.event_at - p_lag and says_otherwise(v_old, (
        select jsonb_object_agg(said.key, said.value)
        from jsonb_each(p_known) as said
        where said.value <> 'null' and to_jsonb(v_old)->said.key <> 'null'
          and said.key not in ('plan_name', 'trial_ends_at', 'checkout_url')
    )) then
        return 'stale';
    end if;
    update subscriptions set
        status = p_known->>'status', plan_id = p_known->>'plan_id',
        plan_name = p_known->>'plan_name', billing_interval = p_known->>'billing_interval',
        period_start = (p_known->>'period_start')::timestamptz,
        period_end = (p_known->>'period_end')::timestamptz,
        cancel_at_period_end = (p_known->>'cancel_at_period_end')::boolean,
        trial_ends_at = (p_known->>'trial_ends_at')::timestamptz,
        checkout_url = p_known->>'checkout_url',
        event_at = greatest(event_at, p_at), told = told_of(told, p_known, p_at),
        version = version + 1, confirmed_at = now(), checked_at = now(), refresh_due = null,
        recheck_at = now() + recheck_after(p_known->>'status', now() - created_at),
        -- Asking about the same unpaid checkout again and again is spaced out further each time.
        checks = case when status is distinct from p_known->>'status' then 0 else checks end
    where id = p_id;
    return case when says_otherwise(v_old, p_known) then 'healed' else 'confirmed' end;
end
$$;

-- How long an answer is good for while nothing happens: a day, give or take a tenth. Nobody waits
-- for what was never paid, so the older such a checkout is, the less it is asked about.
create or replace function recheck_after(p_status text, p_age interval) returns interval
language sql volatile as $$
    select (0.9 + 0.2 * random()) * case
        when p_status in ('pending_payment', 'draft', 'unknown')
            then greatest(interval '1 day', p_age / 2)
        else interval '1 day'
    end
$$;

-- Commet does not know a subscription that is recorded here, so its row is left as it is, and asked
-- about as rarely as one that is well.
create or replace function keep_unknown(p_id text, p_version bigint) returns void
language sql as $$
    update subscriptions set
        checked_at = now(), refresh_due = null, recheck_at = now() + recheck_after(status, '0')
    where id = p_id and version = p_version
$$;

-- Whether something about the row is not known that could change an answer we give: it is marked,
-- a checkout may have been paid, or a period ended (or none was heard of yet) without news.
create or replace function is_in_doubt(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select s.refresh_due <= now()
        or (s.status in ('pending_payment', 'draft', 'unknown')
            and s.created_at > p_now - interval '1 day')
        or (s.status in ('active', 'trialing', 'past_due')
            and (s.period_end <= p_now
                 or (s.period_end is null and not s.told ? 'period_end')))
$$;

-- When Commet may be asked about this row again, null where it never was. The pause between two questions grows from ten
-- seconds to ten minutes and starts anew when news arrives.
create or replace function next_question(s subscriptions) returns timestamptz
language sql stable as $$
    select s.checked_at
           + least(interval '10 minutes', interval '10 seconds' * 2 ^ least(s.checks, 6))
$$;

-- Whether Commet is to be asked about this row now: it is in doubt, or was not confirmed for a day.
create or replace function refresh_is_due(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select coalesce(
        is_in_doubt(s, p_now) or (s.status <> 'canceled' and s.recheck_at <= now()), false
    ) and coalesce(next_question(s) <= now(), true)
$$;

-- Takes the right to ask Commet about somebody: up to p_limit users, those in doubt before those
-- who are merely due, and for each all their rows that are due. Each reason has its own index, so
-- the rows that are well are never looked at. Checkouts are mostly abandoned, not paid without our
-- hearing of it: the pause between two questions about one goes on growing, to eleven hours.
create or replace function claim_refreshes(p_now timestamptz, p_limit integer)
returns setof text
language plpgsql as $$
begin
    return query
    with due as (
        (select d.id, 1 as rank, d.refresh_due as since from subscriptions d
         where d.refresh_due <= now() and refresh_is_due(d, p_now)
         order by d.refresh_due limit p_limit)
        union all
        (select d.id, 1, d.created_at from subscriptions d
         where d.status in ('pending_payment', 'draft', 'unknown')
           and d.created_at > p_now - interval '1 day' and refresh_is_due(d, p_now)
           and (d.checked_at is null
                or d.checked_at + interval '10 seconds' * 2 ^ least(d.checks, 12) <= now())
         order by d.created_at desc limit p_limit)
        union all
        (select d.id, 1, d.period_end from subscriptions d
         where d.status in ('active', 'trialing', 'past_due')
           and d.period_end <= p_now and refresh_is_due(d, p_now)
         order by d.period_end limit p_limit)
        union all
        (select d.id, 1, d.created_at from subscriptions d
         where d.status in ('active', 'trialing', 'past_due')
           and d.period_end is null and refresh_is_due(d, p_now)
         limit p_limit)
        union all
        (select d.id, 2, d.recheck_at from subscriptions d
         where d.status <> 'canceled' and d.recheck_at <= now() and refresh_is_due(d, p_now)
         order by d.recheck_at limit p_limit)
    ),
    taken as (
        select s.id
        from subscriptions s
        where s.id in (select d.id from due d order by d.rank, d.since limit p_limit)
          and not exists (
              select from subscriptions o
              where o.user_id = s.user_id and o.checked_at > now() - interval '10 seconds'
          )
        order by s.id
        for update of s skip locked
    ),
    claimed as (
        update subscriptions s set checked_at = now(), checks = s.checks + 1
        from taken
        where s.id = taken.id and refresh_is_due(s, p_now)
        returning s.user_id
    )
    select distinct c.user_id from claimed c;
end
$$;
