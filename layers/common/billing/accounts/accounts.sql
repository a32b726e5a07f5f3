-- Users and sessions.

-- Inserts a user and their first session. Where the id or the email is taken, inserts neither and
-- returns no row.
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
-- The statement may be repeated after its answer was lost. Its id is random, so a user with this id
-- is the one it inserted.
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

-- Inserts or updates a user whom a backend registers. A user with a password signed up here, so a
-- backend changes neither their email nor their name.
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

-- The user of a session that has not ended. Moves the session's end ahead, but not more often than
-- touch_every: a write with every request would make the row a bottleneck.
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
