-- Own accounts: people who signed up here. docs/accounts.md.
--
-- An account has a claim on its address only if the address is proven (`verified_at`). The unique
-- index users_email_key contains only proven addresses, so it lets only one account have an
-- address.
--
-- A routine that changes an account's address, password or sessions first locks the account's row
-- in `users` (lock_account), so two such changes never run at the same time.
--
-- Every routine may be called twice with the same ids: the Python class Database repeats a
-- statement whose answer was lost.

-- Returns whether the user is an own account whose address is not proven. False for users that a
-- product registered.
create or replace function is_unverified(p_user users) returns boolean
language sql immutable as $$
    select p_user.own_account and p_user.verified_at is null
$$;

-- Returns whether the user proved to have the address: to us, or to the identity provider that
-- brought the user. For a user that a product registered, returns false: that address is contact
-- data.
create or replace function is_address_proven(p_user_id text, p_email_key text) returns boolean
language sql stable as $$
    select coalesce((
        select (
            u.own_account and u.verified_at is not null
            and coalesce(u.email_key, lower(normalize(u.email, nfkc) collate "C")) = p_email_key
        ) or exists (
            select from identities i where i.user_id = u.id and i.proven_email_key = p_email_key
        )
        from users u where u.id = p_user_id
    ), false)
$$;

-- Locks an account until the transaction ends, and returns its row.
create or replace function lock_account(p_user_id text) returns users
language sql as $$
    select u from users u where u.id = p_user_id for no key update
$$;

-- Queues a mail with a link. The link's token replaces an older token of the same purpose. Returns
-- whether the mail was queued. If it was not (limits, or an address that takes no mail), the older
-- token remains.
create or replace function send_token(
    p_user_id text, p_purpose text, p_email text, p_email_key text, p_token_id text,
    p_lasting interval, p_now timestamptz
) returns boolean
language plpgsql as $$
declare
    v_kind text := case p_purpose
        when 'change_email' then 'email_changing' when 'sign_in' then 'sign_in_link' else p_purpose
    end;
begin
    if exists (select from account_tokens where id = p_token_id) then
        return true;
    end if;
    -- lock_account waits for an erasure that runs at the same moment. Nothing is written about a
    -- person after the erasure.
    if (lock_account(p_user_id)).erased_at is not null then
        return false;
    end if;
    if queue_mail(p_user_id, p_email, v_kind, jsonb_build_object(
        'token_id', p_token_id, 'expires_at', p_now + p_lasting
    ), p_now) is null then
        return false;
    end if;
    insert into account_tokens (id, user_id, purpose, email, email_key, created_at, expires_at)
    values (p_token_id, p_user_id, p_purpose, p_email, p_email_key, p_now, p_now + p_lasting)
    on conflict (user_id, purpose) do update set
        id = excluded.id, email = excluded.email, email_key = excluded.email_key,
        created_at = excluded.created_at, expires_at = excluded.expires_at, used_in = null;
    return true;
end
$$;

-- Creates an own account with its first session, and queues the mail that proves its address. If a
-- verified account has the address, creates nothing and returns false.
create or replace function sign_up(
    p_id text, p_email text, p_email_key text, p_name text, p_hash text,
    p_token_sha256 bytea, p_session_id text, p_device text, p_expires_at timestamptz,
    p_token_id text, p_lasting interval, p_now timestamptz, p_person bytea default null
) returns boolean
language plpgsql as $$
begin
    if exists (select from users where id = p_id) then
        return true;
    end if;
    if exists (
        select from users
        where coalesce(email_key, lower(normalize(email, nfkc) collate "C")) = p_email_key
          and own_account and verified_at is not null
    ) then
        return false;
    end if;
    insert into users (id, email, email_key, name, person, own_account, created_at)
    values (p_id, p_email, p_email_key, p_name, p_person, true, p_now);
    insert into passwords (user_id, hash, changed_at) values (p_id, p_hash, p_now);
    insert into sessions (token_sha256, id, user_id, device, created_at, last_seen_at, expires_at)
    values (p_token_sha256, p_session_id, p_id, p_device, p_now, p_now, p_expires_at);
    perform send_token(p_id, 'verify_email', p_email, p_email_key, p_token_id, p_lasting, p_now);
    return true;
end
$$;

-- Writes a hash of the proven address into `users.person`: it says who the owner of the account is
-- (accounts/people.py). p_person is null if that is not known. The caller has locked the account.
create or replace function know_person(p_user_id text, p_person bytea) returns void
language sql as $$
    update users set person = p_person where id = p_user_id and person is distinct from p_person
      and p_person is not null
$$;

-- Begins a session of a verified account, and remembers the network and the person. The caller has
-- just checked the password against p_hash. If the password was changed since that check, begins no
-- session and returns false, because the change ended all sessions.
create or replace function begin_session(
    p_user_id text, p_hash text, p_token_sha256 bytea, p_session_id text, p_device text,
    p_network text, p_expires_at timestamptz, p_now timestamptz, p_person bytea default null
) returns boolean
language plpgsql as $$
declare
    v_user users := lock_account(p_user_id);
begin
    if v_user.verified_at is null
       or not exists (select from passwords where user_id = p_user_id and hash = p_hash) then
        return false;
    end if;
    perform know_person(p_user_id, p_person);
    insert into sessions (token_sha256, id, user_id, device, created_at, last_seen_at, expires_at)
    values (p_token_sha256, p_session_id, p_user_id, p_device, p_now, p_now, p_expires_at)
    on conflict (token_sha256) do nothing;
    perform know_network(p_user_id, p_network, p_now);
    return true;
end
$$;

-- Remembers that the account signed in from p_network. Null: the network is not known, and nothing
-- is written.
create or replace function know_network(p_user_id text, p_network text, p_now timestamptz)
returns void
language sql as $$
    insert into known_networks as k (user_id, network, last_seen_at)
    select p_user_id, p_network, p_now where p_network is not null
    on conflict (user_id, network) do update set last_seen_at = excluded.last_seen_at
    where k.last_seen_at < excluded.last_seen_at
$$;

-- Returns whether a token is valid for the user: it was not used, and has not expired. A token that
-- this same request (p_request) used is valid too, because a statement may be repeated. The caller
-- has locked the user.
create or replace function is_good_token(
    p_token account_tokens, p_user_id text, p_purposes text[], p_request text, p_now timestamptz
) returns boolean
language sql immutable as $$
    select coalesce(
        p_token.user_id = p_user_id and p_token.purpose = any (p_purposes)
            and (p_token.used_in = p_request or (p_token.used_in is null and p_token.expires_at > p_now)),
        false
    )
$$;

-- Proves the address that a link was sent to: the address of a new account, or the new address of
-- an account. Returns null; 'gone' if the link is not valid any more; 'email_taken' if another
-- account proved to have the address first. p_person is the hash of that address, because what is
-- remembered of a person belongs to the proven address, and not to the address of the sign-up.
create or replace function prove_address(
    p_token_id text, p_user_id text, p_person bytea, p_request text, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user users := lock_account(p_user_id);
    v_token account_tokens := (select t from account_tokens t where t.id = p_token_id);
begin
    if not is_good_token(v_token, p_user_id, '{verify_email,change_email}', p_request, p_now)
       or (v_token.purpose = 'verify_email' and v_user.email_key <> v_token.email_key) then
        return 'gone';
    end if;
    if v_token.used_in = p_request then
        return null;
    end if;
    begin
        update users set
            email = v_token.email, email_key = v_token.email_key, person = p_person,
            verified_at = p_now, freed_at = null
        where id = p_user_id;
    exception when unique_violation then
        return 'email_taken';
    end;
    update account_tokens set used_in = p_request where id = p_token_id;
    if v_token.purpose = 'change_email' then
        -- Links that were sent to the old address become invalid.
        delete from account_tokens where user_id = p_user_id and id <> p_token_id;
        if v_user.verified_at is not null then
            perform queue_mail(p_user_id, v_user.email, 'email_changed_notice', '{}', p_now);
        end if;
    end if;
    return null;
end
$$;

-- Sets the password of an own account, and ends all sessions but p_keep. The caller has just
-- checked the current password against p_old. If the password was changed since that check, changes
-- nothing and returns false.
create or replace function change_password(
    p_user_id text, p_old text, p_hash text, p_keep bytea, p_now timestamptz
) returns boolean
language plpgsql as $$
declare
    v_user users := lock_account(p_user_id);
begin
    if exists (select from passwords where user_id = p_user_id and hash = p_hash) then
        return true;
    end if;
    update passwords set hash = p_hash, changed_at = p_now
    where user_id = p_user_id and hash = p_old;
    if not found then
        return false;
    end if;
    delete from sessions where user_id = p_user_id and token_sha256 <> p_keep;
    delete from account_tokens where user_id = p_user_id and purpose in ('reset_password', 'sign_in');
    if v_user.verified_at is not null then
        perform queue_mail(p_user_id, v_user.email, 'password_changed', '{}', p_now);
    end if;
    return true;
end
$$;

-- Sends a link to set a new password to an account with this address: the verified account, or else
-- the newest unverified one. Sends nothing if no account has the address.
create or replace function forgot_password(
    p_email_key text, p_token_id text, p_lasting interval, p_now timestamptz, p_asked jsonb
) returns void
language sql as $$
    select case when send_token(
        u.id, 'reset_password', u.email, u.email_key, p_token_id, p_lasting, p_now
    ) then audit(u.id, p_asked) end from (
        select id, email, p_email_key as email_key from users
        where coalesce(email_key, lower(normalize(email, nfkc) collate "C")) = p_email_key
          and own_account and freed_at is null
        order by verified_at is null, created_at desc, id
        limit 1
    ) u
$$;

-- Sets a new password by a link. The link also proves the address. Ends all sessions and all other
-- links of the account. Returns null, 'gone' or 'email_taken', like prove_address.
create or replace function reset_password(
    p_token_id text, p_user_id text, p_person bytea, p_hash text, p_network text, p_request text,
    p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user users := lock_account(p_user_id);
    v_token account_tokens := (select t from account_tokens t where t.id = p_token_id);
begin
    if not is_good_token(v_token, p_user_id, '{reset_password}', p_request, p_now)
       or v_user.email_key <> v_token.email_key then
        return 'gone';
    end if;
    if v_token.used_in = p_request then
        return null;
    end if;
    begin
        -- Somebody else may have created the unverified account, so the name and the spend limit
        -- that they entered are removed.
        update users set
            verified_at = p_now, name = null, own_spend_limit = null
        where id = p_user_id and verified_at is null;
    exception when unique_violation then
        return 'email_taken';
    end;
    perform know_person(p_user_id, p_person);
    update passwords set hash = p_hash, changed_at = p_now where user_id = p_user_id;
    update account_tokens set used_in = p_request where id = p_token_id;
    delete from account_tokens where user_id = p_user_id and id <> p_token_id;
    delete from sessions where user_id = p_user_id;
    perform know_network(p_user_id, p_network, p_now);
    perform queue_mail(p_user_id, v_user.email, 'password_changed', '{}', p_now);
    return null;
end
$$;

-- Begins a session by a link. The link was sent because somebody is guessing the account's
-- password. Returns null, or 'gone' if the link is not valid.
create or replace function sign_in_by_link(
    p_token_id text, p_user_id text, p_person bytea, p_token_sha256 bytea, p_session_id text,
    p_device text, p_network text, p_expires_at timestamptz, p_request text, p_now timestamptz
) returns text
language plpgsql as $$
declare
    v_user users := lock_account(p_user_id);
    v_token account_tokens := (select t from account_tokens t where t.id = p_token_id);
begin
    if not is_good_token(v_token, p_user_id, '{sign_in}', p_request, p_now)
       or v_user.verified_at is null then
        return 'gone';
    end if;
    perform know_person(p_user_id, p_person);
    update account_tokens set used_in = p_request where id = p_token_id;
    insert into sessions (token_sha256, id, user_id, device, created_at, last_seen_at, expires_at)
    values (p_token_sha256, p_session_id, p_user_id, p_device, p_now, p_now, p_expires_at)
    on conflict (token_sha256) do nothing;
    perform know_network(p_user_id, p_network, p_now);
    return null;
end
$$;

-- Protects the address of an own account and its `verified_at`, because these two decide who signs
-- in. Only a role that may change `passwords` may change them, and the owner of the tables, with
-- whose rights the `security definer` routines run.
create or replace function guard_account() returns trigger
language plpgsql as $$
begin
    if not has_table_privilege('public.passwords', 'update') then
        raise insufficient_privilege using message = 'own accounts are changed by the role accounts';
    end if;
    return new;
end
$$;

create or replace trigger guard_new_account
before insert on users
for each row
when (new.own_account)
execute function guard_account();

create or replace trigger guard_changed_account
before update of email, email_key, verified_at, freed_at, own_account on users
for each row
when (
    (old.own_account or new.own_account)
    and (old.email, old.email_key, old.verified_at, old.freed_at, old.own_account)
        is distinct from (new.email, new.email_key, new.verified_at, new.freed_at, new.own_account)
)
execute function guard_account();

-- Marks an own account that has a customer at Commet as verified, unless another account has proved
-- to have the address. Runs as the owner of the tables, because the roles of functions that sell
-- may not verify accounts.
create or replace function verify_customer(p_user_id text) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    update users set verified_at = now()
    where id = p_user_id and own_account and verified_at is null and freed_at is null
      and commet_customer_id is not null
      and erased_at is null;
exception when unique_violation then
    null;
end
$$;

-- Verifies an address of an account on the word of an operator. p_email null: the account's own
-- address. Another address ends all sessions: the next sign-in then writes the hash of the address
-- (know_person). Operators' commands cannot write it, because they do not have the secret for the
-- hash.
-- Returns null, 'unknown_user', 'not_an_own_account' or 'email_taken'.
create or replace function verify_address(
    p_user_id text, p_email text, p_email_key text, p_now timestamptz
) returns text
language plpgsql as $$
begin
    update users set
        email = coalesce(p_email, email), email_key = coalesce(p_email_key, email_key),
        person = case when p_email is null then person end,
        verified_at = coalesce(case when p_email is null then verified_at end, p_now), freed_at = null
    where id = p_user_id and own_account and erased_at is null;
    if not found then
        return case when exists (select from users where id = p_user_id and erased_at is null)
               then 'not_an_own_account' else 'unknown_user' end;
    end if;
    if p_email is not null then
        delete from account_tokens where user_id = p_user_id;
        delete from sessions where user_id = p_user_id;
    end if;
    return null;
exception when unique_violation then
    return 'email_taken';
end
$$;

-- Takes the address from an account, on the word of an operator, so that another account can prove
-- to have it. The account remains, but nobody can sign in to it until an operator verifies an
-- address of it. Returns null, 'unknown_user' or 'not_an_own_account'.
create or replace function free_address(p_user_id text, p_now timestamptz) returns text
language plpgsql as $$
begin
    update users set verified_at = null, freed_at = coalesce(freed_at, p_now)
    where id = p_user_id and own_account and erased_at is null;
    if not found then
        return case when exists (select from users where id = p_user_id and erased_at is null)
               then 'not_an_own_account' else 'unknown_user' end;
    end if;
    delete from sessions where user_id = p_user_id;
    delete from account_tokens where user_id = p_user_id;
    return null;
end
$$;

-- Deletes unverified accounts that are older than a day and have nothing that must be kept: no
-- customer at Commet, nothing bought or used, and no erasure (an erasure goes on by itself).
-- Returns the number of deleted accounts. The query names every table that refers to accounts
-- without `on delete cascade`: a foreign key that is violated would undo the deletion of all
-- accounts.
create or replace function delete_unverified(p_before timestamptz, p_limit integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    v_deleted integer;
begin
    delete from users
    where id in (
        select u.id from users u
        where u.own_account and u.verified_at is null and u.created_at < p_before
          and u.freed_at is null and u.erased_at is null
          and u.commet_customer_id is null and u.customer_requested_at is null
          and not exists (select from subscriptions where user_id = u.id)
          and not exists (select from entitlements where user_id = u.id)
          and not exists (select from checkout_attempt where user_id = u.id)
          and not exists (select from plan_change where user_id = u.id)
          and not exists (select from plan_change_lease where user_id = u.id)
          and not exists (select from usage_period where user_id = u.id)
          and not exists (select from payment_trouble where user_id = u.id)
          and not exists (select from debt where user_id = u.id)
          and not exists (select from debt_link where user_id = u.id)
          and not exists (select from invoice_search where user_id = u.id)
        limit p_limit
    )
      -- The same conditions again, because another statement may verify or erase the account at
      -- this moment.
      and verified_at is null and erased_at is null and customer_requested_at is null;
    get diagnostics v_deleted = row_count;
    return v_deleted;
end
$$;

-- Deletes links that have ended by p_now, and networks last seen before p_networks_before. One call
-- deletes some thousands; the next call goes on.
create or replace function prune_sign_ins(p_now timestamptz, p_networks_before timestamptz)
returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    delete from account_tokens where id in (
        select id from account_tokens where expires_at < p_now limit 10000
    );
    delete from known_networks where (user_id, network) in (
        select user_id, network from known_networks
        where last_seen_at < p_networks_before
        limit 10000
    );
$$;
