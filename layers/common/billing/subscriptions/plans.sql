-- name: cached_plans
select catalogue, as_of from plans_cache

-- Returns a row where this caller may ask Commet for the plans. Nobody else may for ten seconds.
-- name: claim_plans
update plans_cache set tried_at = now()
where tried_at is null or tried_at < now() - interval '10 seconds'
returning id

-- name: cache_plans
insert into plans_cache as c (id, catalogue, as_of)
values (1, %(catalogue)s, %(as_of)s)
on conflict (id) do update set catalogue = excluded.catalogue, as_of = excluded.as_of
where excluded.as_of >= c.as_of
