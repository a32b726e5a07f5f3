-- Counts one use of the key in this window. Returns no row, and changes nothing, where the limit is
-- used up. The insert locks the key's row, so uses at the same moment wait for each other.
-- name: take
insert into attempts as a (key, window_start, count)
values (%(key)s, %(window_start)s, 1)
on conflict (key, window_start) do update set count = a.count + 1 where a.count < %(limit)s
returning count

-- name: give_back
update attempts set count = count - 1
where key = %(key)s and window_start = %(window_start)s and count > 0
