-- Users whom an identity provider brings.

-- name: user_of_identity
select id, email, name, appeared
from user_of_identity(
    %(issuer)s, %(subject)s, %(new_id)s, %(email)s, %(email_key)s, %(is_proven)s, %(name)s,
    %(issued_at)s, %(now)s, %(entry)s
)

-- name: find
select u.id, u.email, u.name
from identities i join users u on u.id = i.user_id
where i.issuer = %(issuer)s and i.subject = %(subject)s
