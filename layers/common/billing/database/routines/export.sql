-- Views for the export of a person, on tables that most functions may not read. They show all
-- columns except those from which somebody could make a password, a link or a mail. A view reads
-- with its owner's rights.

create or replace view exported_passwords as
select user_id, changed_at from passwords;

create or replace view exported_known_networks as
select user_id, network, last_seen_at from known_networks;

create or replace view exported_account_tokens as
select user_id, purpose, email, email_key, created_at, expires_at, used_in
from account_tokens;

create or replace view exported_mails as
select id, user_id, address, kind, queued_at, expires_at, state, reason, waits_since, due_at,
       leased_until, attempts, ended_at, message_id
from mails;
