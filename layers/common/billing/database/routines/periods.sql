-- Allowance periods that end without news of the next.

-- The same moment a month later, on the given day of the month or the last one it has.
create or replace function month_after(p_moment timestamptz, p_day integer) returns timestamptz
language sql immutable as $$
    select (
        m.first
        + make_interval(days => least(
            p_day, extract(day from m.first + interval '1 month' - interval '1 day')::integer
        ) - 1)
        + (p_moment at time zone 'UTC')::time
    ) at time zone 'UTC'
    from (
        select date_trunc('month', p_moment at time zone 'UTC') + interval '1 month' as first
    ) as m
$$;

-- The allowance period that holds p_now, following one that has ended: a week where that one was
-- a week, else a month. Months run from the day the plan is anchored to, of which a short month
-- hides the 29th to 31st; of two neighbouring dates one always shows it.
create or replace function following_period(
    p_start timestamptz, p_end timestamptz, p_now timestamptz,
    out starts_at timestamptz, out ends_at timestamptz
)
language plpgsql immutable as $$
declare
    v_weekly boolean := p_end - p_start = interval '7 days';
    v_day integer := greatest(
        extract(day from p_start at time zone 'UTC'), extract(day from p_end at time zone 'UTC')
    );
begin
    if month_after(p_start, v_day) <> p_end then
        v_day := extract(day from p_end at time zone 'UTC');  -- a trial, or another broken month
    end if;
    ends_at := p_end;
    loop
        starts_at := ends_at;
        ends_at := case when v_weekly then starts_at + interval '168 hours'
                        else month_after(starts_at, v_day) end;
        exit when ends_at > p_now;
    end loop;
end
$$;

-- When a subscription ends unless Commet says otherwise: a cancellation is booked, or it is a trial.
-- Null where nothing is known to end it.
create or replace function known_end(
    p_status text, p_cancels boolean, p_period_end timestamptz, p_trial_ends_at timestamptz
) returns timestamptz
language sql immutable as $$
    select case
        when p_cancels then p_period_end
        when p_status = 'trialing' then p_trial_ends_at
    end
$$;

-- Closes periods that have ended and opens the next, provisionally: acceptance does not wait for
-- Commet. Only with access, only where the subscription is not known to have ended with its period,
-- and only under the users' locks.
create or replace function roll_over_periods(p_users text[], p_now timestamptz, p_statuses text[])
returns void
language plpgsql as $$
declare
    v_ended record;
begin
    for v_ended in
        select p.id, p.user_id, p.subscription_id, p.plan_id, p.starts_at, p.ends_at
        from usage_period p
        where p.user_id = any (p_users) and p.closed_at is null and p.ends_at <= p_now
          and exists (
              select from current_subscription s
              where s.user_id = p.user_id and s.status = any (p_statuses)
                and not coalesce(known_end(
                    s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at
                ) <= p_now, false)
          )
    loop
        update usage_period set closed_at = p_now where id = v_ended.id;
        insert into usage_period (
            user_id, subscription_id, plan_id, starts_at, ends_at, provisional
        )
        select v_ended.user_id, v_ended.subscription_id, v_ended.plan_id, n.starts_at, n.ends_at, true
        from following_period(v_ended.starts_at, v_ended.ends_at, p_now) as n;
    end loop;
end
$$;
