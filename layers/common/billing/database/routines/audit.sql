-- The audit trail. Functions may only read the table `audit`, so these routines run as the owner of
-- the tables.

-- Writes one entry about a user. p_user is null if the entry is about nobody we know. p_entry comes
-- from billing/audit/trail.py; if it is null or empty, nothing is written. If an entry with this id
-- exists, nothing is written either. If the entry is about a sign-in, the user is the actor.
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

-- Deletes entries older than p_age, but never entries of the last 30 days: somebody who steals the
-- functions' login cannot delete recent entries. Returns the number of deleted entries.
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
