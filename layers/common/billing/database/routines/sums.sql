-- Adding up one user's ledger by the values of a property. Nothing is locked.

-- Returns the sums of a user's entries by period, feature and value of p_property, and by day if
-- p_by_day, with null as the value of entries without the property. Only entries of p_feature (null:
-- any) whose day is in [p_since, p_until) are added up; `entries` says how many these are. Reads
-- the entries booked since p_booked_since in the periods from p_after_start and p_after_period on,
-- p_most and one more at most; each row says as `looked_at` how many were read in all.
--
-- Sequential scans are off: while the planner knows little of the ledger, or where one user has a
-- large part of it, the planner would read the entries of all users.
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
                -- The limit keeps this a look-up for each period. No order: by the time of booking,
                -- the planner would rather read the index of all users.
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
