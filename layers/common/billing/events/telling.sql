-- Outgoing events that become true by time or by a parameter.

-- name: keep_statuses
with gone as (
    delete from access_status where status <> all (%(statuses)s::text[])
)
insert into access_status (status)
select s from unnest(%(statuses)s::text[]) as s
on conflict (status) do nothing

-- name: tell_what_is_due
select tell_what_is_due(%(after)s::text, %(limit)s::integer, %(now)s)
