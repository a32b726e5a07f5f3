-- Users and sessions.

-- name: sign_up
select sign_up(
    %(id)s, %(email)s, %(email_key)s, %(name)s, %(password_hash)s, %(token_sha256)s,
    %(session_id)s, %(device)s, %(expires_at)s, %(token_id)s, %(lasting)s, %(now)s,
    %(person)s
)

-- Finds only verified accounts by their address.
-- name: user_by_email
select u.id, u.email, u.name, false as is_unverified, p.hash as password_hash
from users u
join passwords p on p.user_id = u.id
where coalesce(u.email_key, lower(normalize(u.email, nfkc) collate "C")) = %(email_key)s
  and u.own_account and u.verified_at is not null

-- name: password_of
select hash from passwords where user_id = %(user_id)s

-- name: user_by_id
select id, email, name, is_unverified(users) as is_unverified
from users
where id = %(id)s and erased_at is null

-- Inserts or updates a user whom a backend registers. Of a user who signed up here, the backend
-- changes neither email nor name. Returns no row if the user is erased.
-- name: put_user
with before as materialized (
    select email, name from users where id = %(id)s
), put as (
    insert into users as u (id, email, email_key, name, person, created_at)
    select %(id)s, %(email)s, %(email_key)s, %(name)s, %(person)s, %(now)s
    -- Commet may still use this id for an erased user.
    where not exists (
        select from erasure e
        join users o on o.id = e.user_id
        where e.given_sha256 = sha256(convert_to(%(id)s::text, 'UTF8')) and e.renamed_at is null
          and (o.commet_customer_id is not null or o.customer_requested_at is not null)
    )
    on conflict (id) do update set
        email = case when u.own_account then u.email else excluded.email end,
        email_key = case when u.own_account then u.email_key else excluded.email_key end,
        name = case when u.own_account then u.name else excluded.name end,
        person = coalesce(u.person, excluded.person)
    where u.erased_at is null
    returning id, email, name, is_unverified(u) as is_unverified, (xmax = 0) as created
)
select p.id, p.email, p.name, p.is_unverified, p.created, audit(p.id, case
    when p.created then %(registered)s::jsonb
    when (b.email, b.name) is distinct from (p.email, p.name) then %(changed)s::jsonb
end)
from put p left join before b on true

-- Changes a user of a product. Returns no row for a user who signed up here.
-- name: patch_user
with before as materialized (
    select email, name from users where id = %(id)s
), patched as (
    update users set
        email = coalesce(%(email)s, email),
        email_key = case when %(email)s::text is null then email_key else %(email_key)s end,
        name = case when %(clear_name)s then null else coalesce(%(name)s, name) end
    where id = %(id)s and not own_account and erased_at is null
    returning id, email, name
)
select audit(p.id, case
    when (b.email, b.name) is distinct from (p.email, p.name) then %(changed)s::jsonb
end), p.id, p.email, p.name, false as is_unverified
from patched p cross join before b

-- name: begin_session
select begin_session(
    %(user_id)s, %(password_hash)s, %(token_sha256)s, %(session_id)s, %(device)s, %(network)s,
    %(expires_at)s, %(now)s, %(person)s
)

-- Replaces the hash of a password by another hash of the same password.
-- name: rehash
update passwords set hash = %(new)s where user_id = %(user_id)s and hash = %(old)s

-- name: is_known_network
select exists (
    select from known_networks where user_id = %(user_id)s and network = %(network)s
)

-- Returns the user of a session that has not ended, and extends the session. It extends at most
-- once in touch_every, because a write with every request would make the row a bottleneck.
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
select u.id, u.email, u.name, is_unverified(u) as is_unverified
from good join users u on u.id = good.user_id

-- name: delete_session
delete from sessions where token_sha256 = %(token_sha256)s
