-- The actions of links in mails.

-- name: send_to_account
select send_token(
    u.id, %(purpose)s, u.email, coalesce(u.email_key, lower(normalize(u.email, nfkc) collate "C")),
    %(token_id)s, %(lasting)s, %(now)s
)
from users u
where u.id = %(user_id)s and u.own_account and is_unverified(u) = (%(purpose)s = 'verify_email')

-- name: send_to_next_address
select send_token(
    u.id, 'change_email', %(email)s, %(email_key)s, %(token_id)s, %(lasting)s, %(now)s
)
from users u
where u.id = %(user_id)s and u.own_account and u.erased_at is null

-- name: forgot_password
select forgot_password(%(email_key)s, %(token_id)s, %(lasting)s, %(now)s, %(asked)s)

-- Returns the account of a token that was neither used nor has expired, and its password's hash.
-- name: account_of
select t.user_id, t.purpose, t.email, p.hash as password_hash
from account_tokens t
join passwords p on p.user_id = t.user_id
where t.id = %(token_id)s and t.purpose = any (%(purposes)s)
  and t.used_in is null and t.expires_at > %(now)s

-- name: prove_address
select prove_address(%(token_id)s, %(user_id)s, %(person)s, %(request)s, %(now)s)

-- name: reset_password
select reset_password(
    %(token_id)s, %(user_id)s, %(person)s, %(password_hash)s, %(network)s, %(request)s, %(now)s
)

-- name: sign_in_by_link
select sign_in_by_link(
    %(token_id)s, %(user_id)s, %(person)s, %(token_sha256)s, %(session_id)s, %(device)s,
    %(network)s, %(expires_at)s, %(request)s, %(now)s
)
