-- Adding up one user's ledger by the values of a property. Nothing is locked here.

-- Returns the sums of a user's entries by period, feature and value of p_property, and also by day
-- if p_by_day is true. Entries without the property have the value null. Only entries of p_feature
-- (null: of any feature) whose day is in [p_since, p_until) are added up; `entries` is their
-- number. The function reads entries that were booked since p_booked_since, in the periods from
-- p_after_start and p_after_period on, but at most p_most + 1 entries. Each row has in `looked_at`
-- how many entries were read in all.
--
-- Sequential scans are off, because otherwise the planner would read the entries of all users:
-- while it has few statistics of the ledger, or if one user has a large part of it.
create or replace function sums_by_property(
    p_user text, p_property text, p_by_day boolean, p_feature text, p_since date, p_until date,
    p_after_start timestamptz, p_after_period bigint, p_booked_since timestamptz, p_most integer
) returns table (
    looked_at bigint, entries bigint, period bigint, day date, feature text, value text,
    quantity numeric, late numeric, corrected numeric
)
language sql stable
set enable_seqscan = off
as $$
    with looked as (
        select n.period, n.feature, n.quantity, n.late, n.kind, n.value, n.day,
               n.feature = coalesce(p_feature, n.feature) and n.day >= p_since and n.day < p_until
                   as wanted
        from (
            select e.period, e.feature, e.quantity, e.late, e.kind, e.value,
                   day_of_use(p.starts_at, p.ends_at, e.occurred_at) as day
            from usage_period p
            cross join lateral (
                -- With the limit, this is a look-up for each period. There is no `order by`: to
                -- order by the time of booking, the planner would read the index of all users.
                select n.period, n.feature, n.quantity, n.late, n.kind, n.occurred_at,
                       (n.properties ->> p_property) collate "C" as value
                from usage_event n
                where n.period = p.id and n.booked_at >= p_booked_since
                limit p_most + 1
            ) as e
            where p.user_id = p_user and p.starts_at < p_until and p.ends_at > p_since
              and (p.starts_at, p.id) >= (p_after_start, p_after_period)
            limit p_most + 1
        ) as n
    )
    select (sum(count(*)) over ())::bigint, count(*) filter (where l.wanted), l.period,
           case when p_by_day then l.day end, l.feature, l.value,
           coalesce(sum(l.quantity) filter (where l.wanted), 0),
           coalesce(sum(l.quantity) filter (where l.wanted and l.late), 0),
           coalesce(sum(l.quantity) filter (where l.wanted and l.kind = 'correction'), 0)
    from looked l
    group by l.period, case when p_by_day then l.day end, l.feature, l.value
$$;
