-- Users and sessions.

-- A user and their first session, or neither: nobody is inserted where id or email is taken, and
-- then no row comes back.
-- name: sign_up
with signed_up as (
    insert into users (id, email, name, password_hash, created_at)
    values (%(id)s, %(email)s, %(name)s, %(password_hash)s, %(now)s)
    on conflict do nothing
    returning id, email, name
), session as (
    insert into sessions (token_sha256, user_id, created_at, last_seen_at, expires_at)
    select %(token_sha256)s, id, %(now)s, %(now)s, %(expires_at)s
    from signed_up
)
select id, email, name from signed_up
union all
-- The same statement again, after its answer was lost: this id is nobody else's.
select id, email, name from users
where id = %(id)s and not exists (select from signed_up)

-- name: user_by_email
select id, email, name, password_hash
from users
where lower(email collate "C") = lower(%(email)s collate "C")

-- name: user_by_id
select id, email, name
from users
where id = %(id)s

-- A backend's word on one of its users: insert, or bring up to date. Somebody who signed up with a
-- password of their own is not the backend's to rename, so their row is left as it is.
-- name: put_user
insert into users as u (id, email, name, created_at)
values (%(id)s, %(email)s, %(name)s, %(now)s)
on conflict (id) do update set
    email = case when u.password_hash is null then excluded.email else u.email end,
    name = case when u.password_hash is null then excluded.name else u.name end
returning id, email, name, (xmax = 0) as created

-- name: insert_session
insert into sessions (token_sha256, user_id, created_at, last_seen_at, expires_at)
values (%(token_sha256)s, %(user_id)s, %(now)s, %(now)s, %(expires_at)s)

-- The user of a session that is still good. Its end slides, but only once in a while: a write
-- per request would be a hot row for nothing.
-- name: use_session
with good as (
    select s.token_sha256, s.user_id, s.created_at, s.last_seen_at, s.expires_at
    from sessions s
    where s.token_sha256 = %(token_sha256)s and s.expires_at > %(now)s
), slid as (
    update sessions s set
        last_seen_at = %(now)s,
        expires_at = least(
            %(now)s::timestamptz + %(sliding)s::interval, good.created_at + %(longest)s::interval
        )
    from good
    where s.token_sha256 = good.token_sha256
      and good.last_seen_at < %(now)s::timestamptz - %(touch_every)s::interval
)
select u.id, u.email, u.name
from good join users u on u.id = good.user_id

-- name: delete_session
delete from sessions where token_sha256 = %(token_sha256)s
