-- Users whom an identity provider brings. With `security definer` these routines run with the
-- rights of the tables' owner, because the caller's role may not write `users`.

-- Returns the user whom an issuer calls by this subject. If there is none, creates the user with
-- the id p_new. Users are never looked up by address, because an address does not say who somebody
-- is.
--
-- p_email and p_name, if the token has them, become the user's contact data, but only if they
-- differ from what the issuer said before. So values that were changed here or by the product
-- remain. p_issued_at is when the token was issued. A token that is older than the newest one that
-- changed something changes nothing. An ID token and an access token of one sign-in have the same
-- time.
-- p_is_proven: the user has proved to have the address. If the user is new, p_entry goes into the
-- audit trail. Returns no row for a token from before the person was erased.
create or replace function user_of_identity(
    p_issuer text, p_subject text, p_new text, p_email text, p_email_key text, p_is_proven boolean,
    p_name text, p_issued_at timestamptz, p_now timestamptz, p_entry jsonb
) returns table (id text, email text, name text, appeared boolean)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
#variable_conflict use_column
declare
    v_email bytea := sha256(convert_to(p_email, 'UTF8'));
    v_name bytea := sha256(convert_to(p_name, 'UTF8'));
    v_proven text := case when p_is_proven then p_email_key end;
    v_user text;
    v_told_at timestamptz;
    v_told_email bytea;
    v_told_name bytea;
    v_is_new_email boolean;
    v_is_new_name boolean;
    v_person bytea := sha256(convert_to(p_issuer || chr(31) || p_subject, 'UTF8'));
begin
    -- Read first, because an update at this place would write a row with every request.
    return query
        select u.id, u.email, u.name, false
        from identities i join users u on u.id = i.user_id
        where i.issuer = p_issuer and i.subject = p_subject
          and (i.told_at > p_issued_at
               or (coalesce(v_email, i.email_sha256) is not distinct from i.email_sha256
                   and coalesce(v_name, i.name_sha256) is not distinct from i.name_sha256
                   and coalesce(v_proven, i.proven_email_key) is not distinct from i.proven_email_key));
    if found then
        return;
    end if;

    -- A token from before the person's erasure makes no new account.
    if exists (
        select from remembered r where r.person = v_person and r.erased_at >= p_issued_at
    ) and not exists (
        select from identities i where i.issuer = p_issuer and i.subject = p_subject
    ) then
        return;
    end if;
    -- If two first requests run at once, the second waits here until the first has committed.
    insert into identities (
        issuer, subject, user_id, created_at, told_at, email_sha256, name_sha256, proven_email_key
    ) values (
        p_issuer, p_subject, p_new, p_now,
        case when p_email is not null or p_name is not null then p_issued_at end,
        v_email, v_name, v_proven
    )
    on conflict (issuer, subject) do nothing;
    if found then
        return query
            insert into users as u (id, email, email_key, name, person, created_at)
            values (p_new, p_email, p_email_key, p_name, v_person, p_now)
            returning u.id, u.email, u.name, true;
        perform audit(p_new, p_entry);
        return;
    end if;

    -- The lock orders two tokens that come at once; the condition below keeps the values of the
    -- newer one.
    select i.user_id, i.told_at, i.email_sha256, i.name_sha256
    into v_user, v_told_at, v_told_email, v_told_name
    from identities i
    where i.issuer = p_issuer and i.subject = p_subject
    for no key update;
    v_is_new_email := v_email is distinct from v_told_email and v_email is not null;
    v_is_new_name := v_name is distinct from v_told_name and v_name is not null;
    if coalesce(v_told_at <= p_issued_at, true) then
        update identities i set
            told_at = p_issued_at,
            email_sha256 = coalesce(v_email, i.email_sha256),
            name_sha256 = coalesce(v_name, i.name_sha256),
            proven_email_key = case when v_is_new_email or v_proven is not null then v_proven
                                    else i.proven_email_key end
        where i.issuer = p_issuer and i.subject = p_subject;
        update users u set
            email = case when v_is_new_email then p_email else u.email end,
            email_key = case when v_is_new_email then p_email_key else u.email_key end,
            name = case when v_is_new_name then p_name else u.name end
        where u.id = v_user and (v_is_new_email or v_is_new_name);
    end if;

    return query
        select u.id, u.email, u.name, false
        from identities i join users u on u.id = i.user_id
        where i.issuer = p_issuer and i.subject = p_subject;
end
$$;
