-- A user's own sessions.

-- name: of_user
select id, device, created_at, last_seen_at, expires_at,
       token_sha256 = %(token_sha256)s as is_current
from sessions
where user_id = %(user_id)s and expires_at > %(now)s
order by token_sha256 = %(token_sha256)s desc, last_seen_at desc, id

-- name: began_at
select created_at from sessions where token_sha256 = %(token_sha256)s

-- name: end_one
delete from sessions where user_id = %(user_id)s and id = %(id)s returning id

-- name: end_others
delete from sessions where user_id = %(user_id)s and token_sha256 <> %(token_sha256)s returning id

-- name: end_all
delete from sessions where user_id = %(user_id)s returning id
