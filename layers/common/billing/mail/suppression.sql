-- Suppresses the address of the mail that came back, as the mail's row has it, and each address
-- that the mail service names. The next run ends waiting mails to these addresses.
-- name: suppress
insert into suppressed_addresses (address_sha256, reason)
select distinct address_digest(a.address), %(reason)s
from (
    select address from mails where message_id = %(message_id)s
    union all
    select unnest(%(addresses)s::text[])
) as a
on conflict (address_sha256) do nothing

-- name: allow
delete from suppressed_addresses where address_sha256 = address_digest(%(address)s)
returning 1
