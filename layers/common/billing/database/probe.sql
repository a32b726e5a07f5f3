-- Finding out, as one role of the functions, which privileges that role lacks.

-- Returns what the role of the session lacks, at most five rows. `names` and `wanted` list tables
-- and views, each with one privilege. `columns` has the column of a privilege, null for all
-- columns. `definers` are the routines that run as their owner and that the role calls. They leave
-- out trigger functions, which need no right to be executed, and functions of extensions, which are
-- not ours.
-- name: lacking
with
tables as (
    select t.name, t.privilege, t.single, to_regclass('public.' || quote_ident(t.name)) as id
    from unnest(%(names)s::text[], %(wanted)s::text[], %(columns)s::text[])
        as t (name, privilege, single)
),
routines as (
    select p.oid, p.proname
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace
      and p.prorettype <> 'trigger'::regtype
      and (not p.prosecdef or p.proname = any (%(definers)s))
      and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
)
select distinct 'its search_path does not lead to ' || name as lack
from tables
where to_regclass(quote_ident(name)) is distinct from id
union all
select 'it may not ' || privilege || ' ' || name
from tables
where not case when single is null then has_table_privilege(id, privilege)
               else has_column_privilege(id, single, privilege) end
union all
select 'it may not execute ' || proname
from routines
where not has_function_privilege(oid, 'execute')
order by 1
limit 5
