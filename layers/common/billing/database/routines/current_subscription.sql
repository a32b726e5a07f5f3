-- The one subscription of each user that counts: the live one, or else the newest pending one, or
-- else the newest ended one.
create or replace view current_subscription as
select distinct on (user_id)
       id, user_id, status, plan_id, plan_name, billing_interval, period_start, period_end,
       cancel_at_period_end, trial_ends_at, checkout_url, created_at, changed_at, confirmed_at,
       unknown_at, scheduled_change, resumed_at
from subscriptions
order by user_id,
         (status in ('active', 'trialing', 'past_due', 'paused')) desc,
         (status in ('pending_payment', 'draft', 'unknown')) desc,
         created_at desc,
         id desc;
