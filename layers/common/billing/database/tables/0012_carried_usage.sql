-- What was counted in one period and booked by Commet in the next one.
alter table usage_total
    add column carried numeric(21,6) not null default 0;  -- booked here, counted in an earlier one
alter table usage_delivery
    add column doubted_at timestamptz;  -- sent, and then a period was heard of that may hold it
-- Sent, and not known in which period Commet booked it: few.
create index usage_delivery_unplaced on usage_delivery (user_id, feature)
    where state = 'sent' and billed_period is null;

insert into usage_total as t (period, feature, total, carried)
select billed_period, feature, 0, sum(quantity)
from usage_delivery
where state = 'sent' and billed_period <> period
group by billed_period, feature
on conflict (period, feature) do update set carried = excluded.carried;
