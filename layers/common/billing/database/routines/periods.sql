-- Allowance periods that end before Commet reports the next one.

-- Returns the same time of day in the following month, on day p_day, or on the last day of that
-- month if it is shorter.
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

-- Returns the allowance period that contains p_now, calculated from an earlier period that has
-- ended. The period is a week long if the earlier period was a week and no trial, else a month.
-- Months start on the plan's anchor day. In a short month, an anchor on the 29th to 31st becomes
-- the last day. The anchor day is the larger of the two days on which the earlier period starts and
-- ends, because two short months never follow each other.
create or replace function following_period(
    p_start timestamptz, p_end timestamptz, p_now timestamptz, p_is_trial boolean default false,
    out starts_at timestamptz, out ends_at timestamptz
)
language plpgsql immutable as $$
declare
    v_weekly boolean := p_end - p_start = interval '7 days' and not p_is_trial;
    v_day integer := greatest(
        extract(day from p_start at time zone 'UTC'), extract(day from p_end at time zone 'UTC')
    );
begin
    if month_after(p_start, v_day) <> p_end then
        -- The earlier period was not a whole month, for example because it was a trial. Its last
        -- day is the anchor.
        v_day := extract(day from p_end at time zone 'UTC');
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

-- Returns when a subscription ends if Commet reports nothing else: it has a known end if a
-- cancellation is scheduled, or in a trial. Null if no end is known.
create or replace function known_end(
    p_status text, p_cancels boolean, p_period_end timestamptz, p_trial_ends_at timestamptz
) returns timestamptz
language sql immutable as $$
    select case
        when p_cancels then p_period_end
        when p_status = 'trialing' then p_trial_ends_at
    end
$$;

-- Returns when the plan of a subscription ends if Commet reports nothing else: at the known end, or
-- when a booked change to another plan takes effect. What the next plan includes and sells is not
-- known until Commet reports it. Null if no such time is known. A booked change of the interval
-- alone does not end the plan.
create or replace function plan_end(
    p_status text, p_cancels boolean, p_period_end timestamptz, p_trial_ends_at timestamptz,
    p_plan text, p_scheduled_change jsonb
) returns timestamptz
language sql stable as $$
    select least(
        known_end(p_status, p_cancels, p_period_end, p_trial_ends_at),
        case when p_scheduled_change->>'plan_id' is distinct from p_plan
                  and p_scheduled_change->>'plan_id' is not null
             then coalesce((p_scheduled_change->>'effective_at')::timestamptz, p_period_end) end
    )
$$;

-- Returns what was used of a feature in free periods that the user left early and whose included
-- quantity is not given again in p_period. This is a function of its own, and not a part of
-- usage_standing, so that the look-up costs time only for users of free plans.
create or replace function used_before_of(p_period bigint, p_feature text, p_now timestamptz)
returns numeric
language plpgsql stable as $$
begin
    return (
        select coalesce(sum(t.total + t.carried), 0)
        from earlier_free_period l
        cross join lateral (
            select n.total, n.carried from usage_total n
            where n.period = l.earlier and n.feature = p_feature limit 1
        ) as t
        where l.period = p_period and l.until > p_now
    );
end
$$;

-- Closes the users' periods that have ended and opens the periods that follow, marked as
-- provisional, so that accepting usage need not wait until Commet reports them. Changes nothing for
-- users without access, and for users whose plan is known to end with its period.
-- p_statuses are the subscription statuses that give access. The caller has locked the users.
create or replace function roll_over_periods(p_users text[], p_now timestamptz, p_statuses text[])
returns void
language plpgsql as $$
declare
    v_ended record;
begin
    for v_ended in
        select p.id, p.user_id, p.subscription_id, p.plan_id, p.is_free, p.is_trial, p.starts_at,
               p.ends_at
        from usage_period p
        where p.user_id = any (p_users) and p.closed_at is null and p.ends_at <= p_now
          and exists (
              select from current_subscription s
              where s.user_id = p.user_id and s.status = any (p_statuses)
                and not coalesce(plan_end(
                    s.status, s.cancel_at_period_end, s.period_end, s.trial_ends_at, s.plan_id,
                    s.scheduled_change
                ) <= p_now, false)
          )
    loop
        update usage_period set closed_at = p_now where id = v_ended.id;
        insert into usage_period (
            user_id, subscription_id, plan_id, is_free, starts_at, ends_at, provisional
        )
        select v_ended.user_id, v_ended.subscription_id, v_ended.plan_id, v_ended.is_free,
               n.starts_at, n.ends_at, true
        from following_period(
            v_ended.starts_at, v_ended.ends_at, p_now, v_ended.is_trial
        ) as n;
    end loop;
end
$$;
