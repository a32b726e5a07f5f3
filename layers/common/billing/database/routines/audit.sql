-- The audit trail. These routines run as the owner of the tables, because functions may only read the
-- trail.

-- Writes one entry about a user; p_user is null where it is about nobody we know. p_entry is what
-- billing/audit/trail.py makes; null or empty: nothing is written. An entry whose id is there already
-- is not written again. Where somebody signs in, the user is the actor.
create or replace function audit(p_user text, p_entry jsonb) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    insert into audit (id, actor_kind, actor, user_id, action, outcome, request_id, network, details,
                       note)
    select (p_entry->>'id')::uuid, p_entry->>'actor_kind',
           coalesce(p_entry->>'actor', case when p_entry->>'actor_kind' = 'user' then p_user end),
           p_user, p_entry->>'action', p_entry->>'outcome', p_entry->>'request_id',
           p_entry->>'network', coalesce(p_entry->'details', '{}'), p_entry->>'note'
    where p_entry <> '{}'
    on conflict (id) do nothing
$$;

-- Deletes entries older than p_age, 30 days at least: whoever has the functions' login cannot delete
-- the traces of today. Returns how many were deleted.
create or replace function prune_audit(p_age interval, p_limit integer) returns bigint
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    with old as (
        select id from audit
        where at < now() - greatest(p_age, interval '30 days')
        order by at
        limit p_limit
    ),
    deleted as (
        delete from audit a using old where a.id = old.id
        returning 1
    )
    select count(*) from deleted
$$;
