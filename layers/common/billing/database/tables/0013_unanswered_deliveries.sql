-- Pending deliveries that got no answer, by their first attempt: few, except while Commet is silent.
create index usage_delivery_unanswered on usage_delivery (uncertain_since)
    where state = 'pending' and uncertain_since is not null;
