-- Mails to people. docs/mail.md.

-- Returns the digest of an address. Different spellings of one address have the same digest, except
-- if one of them has the domain in punycode.
create or replace function address_digest(p_address text) returns bytea
language sql immutable as $$
    select sha256(convert_to(lower(normalize(p_address, nfkc) collate "C"), 'UTF8'))
$$;

-- Returns whether no mail is sent to the address, because a mail to it came back or was called
-- unwanted.
create or replace function is_suppressed(p_address text) returns boolean
language sql stable as $$
    select exists (
        select from suppressed_addresses s where s.address_sha256 = address_digest(p_address)
    )
$$;

-- Counts one use of p_key in the hour of p_now. If there were p_limit uses already, counts nothing
-- and returns false. Two calls with the same key at one moment run one after the other.
create or replace function take_turn(p_key text, p_limit integer, p_now timestamptz)
returns boolean
language plpgsql as $$
begin
    insert into attempts as a (key, window_start, count)
    values (p_key, date_trunc('hour', p_now, 'UTC'), 1)
    on conflict (key, window_start) do update set count = a.count + 1 where a.count < p_limit;
    return found;
end
$$;

-- Returns whether a mail of this kind is about a threshold, so that the user may switch it off.
create or replace function is_about_threshold(p_kind text) returns boolean
language sql immutable as $$ select p_kind in ('usage_threshold', 'spend_threshold') $$;

-- Queues one mail to a user and returns its id. Returns null, and queues nothing, if the address is
-- suppressed or a limit is used up. Callers give the same answer in both cases, so that nobody
-- learns which addresses are suppressed.
--
-- p_kind, and what p_fields has for it:
--   verify_email          {"token_id"}  a link that proves that the address is the user's
--   email_changing        {"token_id"}  the same link, to the new address of an account
--   reset_password        {"token_id"}  a link to set a new password
--   sign_in_link          {"token_id"}  a link to sign in from somewhere new
--   email_changed_notice  {}            to the old address
--   password_changed      {}
--   usage_threshold, spend_threshold, payment_failed, trial_ending
--                         the fields that mail_of_event makes of an outgoing event
-- billing.accounts.tokens computes the token from token_id. "expires_at" is when the link ends: the
-- mail is not sent after that time. Without it, a mail with a link is given up after a day, another
-- mail after three days. p_fields has nothing else, and never a secret.
--
-- Limits by the hour. Of mails with a link, an address gets three for each purpose (to prove the
-- address, to set a password, to sign in), so that nobody can use up the limit of another purpose;
-- a user gets ten, whatever the address. A user also gets twenty of each of these: notices, mails
-- about thresholds, and other mails about outgoing events.
create or replace function queue_mail(
    p_user_id text, p_address text, p_kind text, p_fields jsonb, p_now timestamptz
) returns bigint
language plpgsql as $$
declare
    v_class text := case
        when p_kind in ('email_changed_notice', 'password_changed') then 'notice'
        when is_about_threshold(p_kind) then 'threshold'
        when p_kind in ('payment_failed', 'trial_ending') then 'event'
        else 'link'
    end;
    v_has_link boolean := v_class = 'link';
    v_purpose text := case when p_kind = 'email_changing' then 'verify_email' else p_kind end;
    v_account text := format('mail:%s:%s', v_class, p_user_id);
    v_id bigint;
begin
    if v_has_link and p_fields->>'token_id' is null then
        raise exception 'a mail of kind % needs a token_id', p_kind;
    end if;
    if is_suppressed(p_address)
       or not take_turn(v_account, case when v_has_link then 10 else 20 end, p_now) then
        return null;
    end if;
    if v_has_link and not take_turn(
        format('mail:%s:%s', v_purpose, encode(address_digest(p_address), 'hex')), 3, p_now
    ) then
        -- Strangers may ask for mails to this address. A mail that is refused to them must not
        -- count against the user's own limit.
        update attempts set count = count - 1
        where key = v_account and window_start = date_trunc('hour', p_now, 'UTC');
        return null;
    end if;
    insert into mails (user_id, address, kind, fields, queued_at, expires_at)
    values (p_user_id, p_address, p_kind, p_fields, p_now, coalesce(
        (p_fields->>'expires_at')::timestamptz,
        p_now + case when v_has_link then interval '1 day' else interval '3 days' end
    ))
    returning id into v_id;
    return v_id;
end
$$;
