-- What Commet itself answers, and when it is to be asked.

-- Writes what Commet itself answered about a subscription, unless something newer arrived while
-- we were asking (then the row stays marked). p_known holds every column Commet speaks of.
-- Not every event changes the subscription it tells of, so an answer that is older than the newest
-- event still counts where it contradicts nothing that is known.
create or replace function confirm_subscription(
    p_id text, p_version bigint, p_at timestamptz, p_known jsonb, p_lag interval
) returns boolean
language plpgsql as $$
begin
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
        -- Asking about the same unpaid checkout again and again is spaced out further each time.
        checks = case when status is distinct from p_known->>'status' then 0 else checks end
    where id = p_id and version = p_version and (
        p_at >= event_at - p_lag
        or status = p_known->>'status'
           and cancel_at_period_end = (p_known->>'cancel_at_period_end')::boolean
           and (plan_id = p_known->>'plan_id') is not false
           and (billing_interval = p_known->>'billing_interval') is not false
           and (period_start = (p_known->>'period_start')::timestamptz) is not false
           and (period_end = (p_known->>'period_end')::timestamptz) is not false
    );
    return found;
end
$$;

-- Whether Commet is to be asked about this row, as far as its own state tells: something is known
-- to be missing, a checkout may have been paid, or a period ended without news. The pause between
-- two questions grows from ten seconds to ten minutes and starts anew when news arrives.
create or replace function refresh_is_due(s subscriptions, p_now timestamptz) returns boolean
language sql stable as $$
    select (
        s.refresh_due <= now()
        or (s.status in ('pending_payment', 'draft', 'unknown')
            and s.created_at > p_now - interval '1 day')
        or (s.status in ('active', 'trialing', 'past_due') and s.period_end <= p_now)
    ) and (
        s.checked_at is null
        or s.checked_at + least(interval '10 minutes', interval '10 seconds' * 2 ^ least(s.checks, 6))
           <= now()
    )
$$;
