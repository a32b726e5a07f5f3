-- An account as its user sees and changes it.

-- name: show
select u.id, u.email, u.name, u.own_account,
       is_address_proven(u.id, coalesce(u.email_key, lower(normalize(u.email, nfkc) collate "C")))
           as is_proven,
       u.created_at, t.email as next_email
from users u
left join account_tokens t
    on t.user_id = u.id and t.purpose = 'change_email' and t.used_in is null
       and t.expires_at > %(now)s
where u.id = %(user_id)s

-- name: rename
update users set name = %(name)s where id = %(user_id)s and erased_at is null

-- name: change_password
select change_password(%(user_id)s, %(old)s, %(new)s, %(keep)s, %(now)s)

-- name: verify_address
select verify_address(%(user_id)s, %(email)s, %(email_key)s, %(now)s)

-- name: free_address
select free_address(%(user_id)s, %(now)s)
