-- Counts one attempt for every key. Returns each key's count, including this attempt.
-- name: count_attempts
insert into attempts as a (key, window_start, count)
select k.key, k.window_start, 1
from unnest(%(keys)s::text[], %(windows)s::timestamptz[]) as k (key, window_start)
order by k.key
on conflict (key, window_start) do update set count = a.count + 1
returning key, count

-- name: count
select count from attempts where key = %(key)s and window_start = %(window_start)s
