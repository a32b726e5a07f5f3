-- The outbox: leasing mails, and recording outcomes.
--
-- Leases and pauses use the database's clock, which is the same for all machines. The time at which
-- a mail expires is compared with the time that the caller passes in.

-- Ends mails that nobody will send, and returns them. If a run died while it sent a mail, that mail
-- is in doubt, because the mail service may have taken it.
-- name: end_hopeless
with hopeless as (
    select id, case when state = 'sending' then 'in_doubt' else 'dead' end as ending,
           case when state = 'sending' then 'the run that sent it has died'
                when expires_at <= %(now)s then coalesce(reason, 'expired')
                else 'suppressed' end as why
    from mails
    where (state = 'sending' and leased_until <= now())
       or (state = 'pending' and (expires_at <= %(now)s or is_suppressed(address)))
    order by id
    limit 1000
    for update skip locked
)
update mails m set state = h.ending, reason = h.why, ended_at = now(), leased_until = null
from hopeless h
where m.id = h.id
returning m.id, m.state, m.kind, m.reason

-- Leases the mail that has been due the longest. Returns no row if none is due. Skips mails that
-- another run has locked.
-- name: lease_next
with next as materialized (
    select id from mails
    where state = 'pending' and due_at <= now() and expires_at > %(now)s
    order by due_at, id
    limit 1
    for update skip locked
)
update mails m set
    state = 'sending', leased_until = now() + %(lease)s::interval, attempts = m.attempts + 1
from next
where m.id = next.id
returning m.id, m.user_id, m.attempts, m.address, m.kind, m.fields, m.expires_at

-- Records the outcome of an attempt, even if it took longer than its lease. If another attempt has
-- begun since, the outcome is recorded only if the mail was sent.
-- name: record
update mails set
    state = %(state)s, reason = %(reason)s, leased_until = null,
    message_id = coalesce(message_id, %(message_id)s),
    due_at = now() + %(pause)s::interval,
    ended_at = case when %(state)s <> 'pending' then now() end
where id = %(id)s
  and (attempts = %(attempts)s and state in ('sending', 'in_doubt')
       or %(state)s = 'sent' and state in ('pending', 'in_doubt'))

-- Queues dead mails and mails in doubt again, unless they have expired. A mail in doubt may then be
-- sent twice.
-- name: redrive
update mails set state = 'pending', ended_at = null, due_at = now(), waits_since = now()
where state in ('in_doubt', 'dead') and expires_at > %(now)s
  and (%(id)s::bigint is null or id = %(id)s::bigint)
  and (%(user)s::text is null or user_id = %(user)s::text)
returning id

-- Each part of the query uses an index of its own. Sent mails are in none of these indexes.
-- name: gauges
select
    coalesce(extract(epoch from now() - least(
        (select min(waits_since) from mails where state = 'pending'),
        (select min(waits_since) from mails where state = 'sending')
    )), 0)::float8 as age_seconds,
    (select count(*) from mails
     where state = 'dead' and expires_at > %(now)s
       and reason not in ('address', 'suppressed')) as dead,
    (select count(*) from mails
     where state = 'in_doubt' and expires_at > %(now)s) as in_doubt

-- name: delete_old
delete from mails where id in (
    select id from mails where ended_at < now() - %(age)s::interval order by ended_at limit 1000
)
