-- name: ring
update alarm_once set rung_at = now() where rung_at is null
returning alarm, subject, about
