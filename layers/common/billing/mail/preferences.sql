-- What users have chosen about mails.

-- name: read
select coalesce((select thresholds from mail_preferences where user_id = %(user_id)s), true)

-- Returns no row for a user who is unknown or erased.
-- name: change
select change_mail_preferences(%(user_id)s, %(thresholds)s, %(entry)s)
