-- Mails to people: the outbox, and the addresses that get no mail.

-- `state` says what became of a mail:
--   pending   waits to be sent, for the first time or again
--   sending   one run alone sends it, until leased_until
--   sent      the mail service has taken it
--   in_doubt  no answer said whether the mail service took it; it is not sent again by itself
--   dead      it was refused, or not sent in time
create table mails (
    id           bigint generated always as identity primary key,
    user_id      text collate "C" not null references users (id) on delete cascade,
    address      text not null,            -- where it is sent
    kind         text not null check (kind in (
                     'verify_email', 'reset_password', 'sign_in_link', 'email_changing',
                     'email_changed_notice', 'password_changed',
                     'usage_threshold', 'spend_threshold', 'payment_failed', 'trial_ending'
                 )),
    -- The values for the mail's text. They contain no secret (a link's token is computed from
    -- token_id when the mail is sent), no personal data, and no address of a page.
    fields       jsonb not null check (jsonb_typeof(fields) = 'object' and fields - '{
                     token_id,expires_at,
                     feature,plan,percent,used,included,spent,limit,amount,currency,date
                 }'::text[] = '{}'),
    event        uuid,                     -- the outgoing event that the mail reports; null: none
    queued_at    timestamptz not null,     -- by the clock passed in
    expires_at   timestamptz not null,     -- by the same clock; the mail is not sent later
    state        text not null default 'pending' check (state in
                     ('pending', 'sending', 'sent', 'in_doubt', 'dead')),
    reason       text,                     -- why the last attempt failed
    -- The remaining times are by the database's clock.
    waits_since  timestamptz not null default now(),  -- when it was queued, or queued again
    due_at       timestamptz not null default now(),
    leased_until timestamptz,              -- not null: while `sending`
    attempts     integer not null default 0,
    ended_at     timestamptz,              -- when it became sent, in_doubt or dead
    message_id   text collate "C",         -- the mail service's id of the mail
    check ((state = 'sending') = (leased_until is not null)),
    check ((state in ('sent', 'in_doubt', 'dead')) = (ended_at is not null))
);
create index mails_user_id on mails (user_id);
create index mails_due_at on mails (due_at) where state = 'pending';
create index mails_leased_until on mails (leased_until) where state = 'sending';
create index mails_failed on mails (state) where state in ('in_doubt', 'dead');
create index mails_ended_at on mails (ended_at) where ended_at is not null;
create unique index mails_event on mails (event) where event is not null;
create unique index mails_message_id on mails (message_id) where message_id is not null;

-- Addresses that get no mail, because a mail to them came back, or because their owner marked one
-- of our mails as unwanted. The address itself is not stored.
create table suppressed_addresses (
    address_sha256 bytea primary key,      -- address_digest(address)
    reason         text not null check (reason in ('bounce', 'complaint')),
    suppressed_at  timestamptz not null default now()
);

-- What users have chosen about mails. A user without a row gets all mails.
create table mail_preferences (
    user_id    text collate "C" primary key references users (id) on update cascade on delete cascade,
    thresholds boolean not null,           -- whether mails about thresholds are sent
    changed_at timestamptz not null default now()
);
