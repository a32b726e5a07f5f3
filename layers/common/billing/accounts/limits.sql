-- Counts one use of the key in this window. If the limit is used up, changes nothing and returns no
-- row. The insert locks the key's row, so uses at the same moment run one after the other.
-- name: take
insert into attempts as a (key, window_start, count)
values (%(key)s, %(window_start)s, 1)
on conflict (key, window_start) do update set count = a.count + 1 where a.count < %(limit)s
returning count

-- name: give_back
update attempts set count = count - 1
where key = %(key)s and window_start = %(window_start)s and count > 0
