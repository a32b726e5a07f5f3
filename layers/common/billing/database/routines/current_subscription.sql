-- The row that speaks for a user: the live one, else the newest pending, else the newest ended.
create or replace view current_subscription as
select distinct on (user_id) *
from subscriptions
order by user_id,
         (status in ('active', 'trialing', 'past_due', 'paused')) desc,
         (status in ('pending_payment', 'draft', 'unknown')) desc,
         created_at desc,
         id desc;
