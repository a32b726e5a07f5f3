-- Which totals may be claimed, and which deliveries may be leased (delivery/outbox.sql). Postgres
-- inlines these functions into the statements, so their conditions can use indexes.

-- The features of users whose total is being replaced. Growth of these features is not claimed:
-- whichever period counted the growth, Commet would book it in the total that is being replaced.
create or replace view being_replaced as
select p.user_id, t.feature
from usage_total t
join usage_period p on p.id = t.period
where t.claims_paused_until = 'infinity';

-- Returns whether a total has growth that may be claimed now.
create or replace function has_growth(t usage_total) returns boolean
language sql stable as $$
    select not t.fully_claimed and t.total > t.claimed + t.withheld
       and (t.claims_paused_until is null or t.claims_paused_until <= now())
$$;

-- Returns whether growth is due: the interval since the last claim is over, or the period is.
create or replace function is_due(
    t usage_total, p usage_period, p_now timestamptz, p_interval interval, p_closing interval
) returns boolean
language sql stable as $$
    select t.claimed_at is null
        or t.claimed_at <= now() - p_interval
        or p.closed_at is not null
        or p.ends_at <= p_now + p_closing
$$;

-- Returns whether a period is a trial that has ended or ends within a minute. Commet may book a
-- delivery that is sent then in the paid period, and bill it.
create or replace function is_trial_over(p usage_period, p_now timestamptz) returns boolean
language sql stable as $$
    select p.is_trial and p.ends_at <= p_now + interval '1 minute'
$$;

-- Returns whether a delivery may be leased for p_lease now.
create or replace function may_be_leased(
    d usage_delivery, p_lease interval, p_key_lifetime interval
) returns boolean
language sql stable as $$
    select d.state = 'pending' and d.due_at <= now()
       and (d.uncertain_since is null or d.uncertain_since > now() + p_lease - p_key_lifetime)
$$;
