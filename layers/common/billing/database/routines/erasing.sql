-- Erasure in two steps, and what the account of a person who comes back gets of the erased one
-- (docs/decisions/0038-erasure-and-export.md). The routines that erase run as the owner of the
-- tables.

-- The first step, which happens at once: deletes sessions, password, tokens, mails, name, address
-- and stored webhooks. Deliveries remain, because Commet needs them, and so do debts. Returns false
-- if there is no such user. May be repeated. p_entry is an entry of the audit trail.
create or replace function erase_user(p_user text, p_entry jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    v_user record;
begin
    perform from users where id = p_user for no key update;
    select u.erased_at, u.commet_customer_id, u.person,
           not u.own_account or u.verified_at is not null as is_proven
    into v_user
    from users u where u.id = p_user;
    if not found then
        return false;
    end if;
    perform audit(p_user, p_entry);
    if v_user.erased_at is not null then
        return true;
    end if;
    insert into erasure (user_id, pseudonym)
    values (p_user, case when p_user like 'usr\_%' then p_user
                         else 'usr_' || left(replace(gen_random_uuid()::text, '-', ''), 24) end);
    delete from sessions where user_id = p_user;
    delete from passwords where user_id = p_user;
    delete from identities where user_id = p_user;
    delete from known_networks where user_id = p_user;
    delete from account_tokens where user_id = p_user;
    delete from mails where user_id = p_user;
    delete from mail_preferences where user_id = p_user;
    delete from attempts where key = any (attempts_of(p_user));
    -- A webhook that was not applied yet keeps its payload until then, and loses it when it is
    -- applied (retry_webhook).
    update webhooks set payload = null
    where (customer in (p_user, v_user.commet_customer_id) or user_id = p_user)
      and payload is not null and status in ('applied', 'ignored', 'unreadable');
    update customers set approved_note = null
    where id = v_user.commet_customer_id or approved_for = p_user;
    update audit set note = null where user_id = p_user and note is not null;
    perform forget_pages(p_user);
    -- An unproven account may be anybody's, so it changes nothing that is remembered of the person.
    if v_user.person is not null and v_user.is_proven then
        update erasure set heir = p_user
        where user_id <> p_user
          and user_id = (select r.user_id from remembered r where r.person = v_user.person);
        insert into remembered as r (person, user_id) values (v_user.person, p_user)
        on conflict (person) do update set
            user_id = excluded.user_id, erased_at = now(),
            had_trial = had_trial_before(r), free_until = free_until_of(r);
    end if;
    -- A trigger on these columns makes the schedule send this address and no name to Commet, where
    -- they overwrite the old ones.
    update users set
        email = 'erased-' || replace(gen_random_uuid()::text, '-', '') || '@erased.invalid',
        email_key = null, name = null, verified_at = null, person = null, erased_at = now()
    where id = p_user;
    return true;
end
$$;

-- Deletes the addresses of the pages on which the user could pay: whoever has such an address can
-- see personal data on the page.
create or replace function forget_pages(p_user text) returns void
language sql as $$
    update payment_trouble set recovery_url = null
    where user_id = p_user and recovery_url is not null;
    update subscriptions set checkout_url = null where user_id = p_user and checkout_url is not null;
    update debt_link set url = null where user_id = p_user and url is not null;
$$;

-- Removes a page's address from every later row of an erased user.
create or replace function keep_no_page() returns trigger
language plpgsql as $$
begin
    if exists (select from users where id = new.user_id and erased_at is not null) then
        if tg_table_name = 'payment_trouble' then
            new.recovery_url := null;
        elsif tg_table_name = 'subscriptions' then
            new.checkout_url := null;
        else
            new.url := null;
        end if;
    end if;
    return new;
end
$$;

create or replace trigger no_page_of_erased
before insert or update of recovery_url on payment_trouble
for each row when (new.recovery_url is not null)
execute function keep_no_page();

create or replace trigger no_page_of_erased
before insert or update of checkout_url on subscriptions
for each row when (new.checkout_url is not null)
execute function keep_no_page();

create or replace trigger no_page_of_erased
before insert or update of url on debt_link
for each row when (new.url is not null)
execute function keep_no_page();

-- Returns the keys under which a user's requests are counted in `attempts`.
create or replace function attempts_of(p_user text) returns text[]
language sql immutable as $$
    select array_agg(what || ':' || p_user)
    from unnest(array[
        'charge', 'checkout', 'debts', 'export', 'invoices', 'manage', 'plan-change', 'portal', 'second', 'sums'
    ]) as what
$$;

-- The second step: replaces, in every table, an id that a product gave, and the texts that a
-- product wrote into the ledger. Looks at p_limit entries of the ledger at most, or deletes that
-- many keys. The next call goes on after them. Returns whether the step is done; null if the user
-- is not erased.
create or replace function replace_erased(p_user text, p_limit integer) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    v_new text;
    v_customer text;
    v_count bigint;
    v_done_key text;
    v_done_feature text;
    v_periods bigint[] := array(select id from usage_period where user_id = p_user);
begin
    perform from users where id = p_user for no key update;
    select e.pseudonym, u.commet_customer_id, e.done_key, e.done_feature
    into v_new, v_customer, v_done_key, v_done_feature
    from erasure e
    join users u on u.id = e.user_id
    where e.user_id = p_user and e.finished_at is null;
    if not found then
        return exists (select from erasure where user_id = p_user);
    end if;
    -- Keys are the product's own texts. The new keys are random; they only have to differ. A new
    -- key that comes later in the order is read once more.
    with part as materialized (
        select n.idempotency_key, n.feature, n.fingerprint from usage_event n
        where n.user_id = p_user and (n.idempotency_key, n.feature) > (v_done_key, v_done_feature)
        order by n.idempotency_key, n.feature
        limit p_limit
    ),
    replaced as (
        update usage_event e set
            user_id = v_new, idempotency_key = 'erased:' || gen_random_uuid(), fingerprint = '',
            properties = null, reason = null
        from part s
        where e.user_id = p_user and e.idempotency_key = s.idempotency_key
          and e.feature = s.feature and s.fingerprint <> ''
    ),
    looked_at as (
        select n.idempotency_key, n.feature from part n
        order by n.idempotency_key desc, n.feature desc
        limit 1
    )
    update erasure e set done_key = n.idempotency_key, done_feature = n.feature
    from looked_at n
    where e.user_id = p_user and (select count(*) from part) = p_limit;
    if found then
        return false;
    end if;
    delete from usage_key where key in (
        select key from usage_key
        where key >= (encode(
                substr(sha256(convert_to(p_user, 'UTF8')), 1, 6), 'hex') || repeat('0', 20))::uuid
            and key <= (encode(
                substr(sha256(convert_to(p_user, 'UTF8')), 1, 6), 'hex') || repeat('f', 20))::uuid
        limit p_limit
    );
    get diagnostics v_count = row_count;
    if v_count = p_limit then
        return false;
    end if;
    -- A reservation that was confirmed meanwhile may have booked an entry before the stored
    -- position: then begin again.
    if p_user <> v_new and exists (select from usage_event where user_id = p_user
                                   and (idempotency_key, feature) <= (v_done_key, v_done_feature)) then
        update erasure set done_key = '', done_feature = '' where user_id = p_user;
        return false;
    end if;
    update usage_credit set user_id = v_new, idempotency_key = 'erased:' || gen_random_uuid()
    where user_id = p_user;
    -- Two updates, because each has an index.
    update usage_reservation set
        user_id = v_new, idempotency_key = 'erased:' || gen_random_uuid(), fingerprint = '',
        properties = null
    where user_id = p_user and state = 'held';
    update usage_reservation set
        user_id = v_new, idempotency_key = 'erased:' || gen_random_uuid(), fingerprint = '',
        properties = null
    where user_id = p_user and state <> 'held';
    update usage_delivery set
        user_id = v_new, event_id = delivery_name(period, v_new, feature, seq), body = '{}',
        note = null
    where period = any (v_periods);
    update usage_drift set user_id = v_new where user_id = p_user;
    -- `data.key` is the key of a correction, which is the product's own text.
    update outgoing_event set user_id = v_new, data = data - 'key' where user_id = p_user;
    delete from overage_due where user_id = p_user;
    delete from threshold where user_id = p_user;
    update charged_currency set user_id = v_new where user_id = p_user;
    update alarm_once set about = v_new where about = p_user;
    update alarm_once set subject = v_new where subject = p_user;
    update webhooks set customer = v_new where customer = p_user;
    update webhooks set user_id = v_new where user_id = p_user and p_user <> v_new;
    update webhooks set payload = null
    where (customer in (v_new, v_customer) or user_id = v_new) and payload is not null;
    update customers set external_id = v_new where external_id = p_user;
    update customers set approved_for = v_new, approved_note = null where approved_for = p_user;
    -- Replace the actor too: an actor of kind 'user' is always the user's own account.
    update audit set
        user_id = v_new, note = null,
        actor = case when actor_kind = 'user' and actor = p_user then v_new else actor end
    where user_id = p_user;
    delete from checkout_attempt where user_id = p_user;
    delete from plan_change where user_id = p_user;
    delete from plan_change_lease where user_id = p_user;
    perform forget_pages(p_user);
    update users set name = null where id = p_user and name is not null;
    -- A contact change of a user with a customer remains until Commet has taken it.
    delete from contact_change where user_id = p_user and v_customer is null;
    delete from attempts where key = any (attempts_of(p_user));
    update debt set note = null where user_id = p_user;
    update debt set source = replace(source, p_user, v_new)
    where user_id = p_user and p_user <> v_new and position(p_user in source) > 0;
    update erasure set heir = v_new where heir = p_user;
    -- Foreign keys with `on update cascade` change the other tables.
    update users set id = v_new where id = p_user and id <> v_new;
    update erasure set
        finished_at = now(), done_key = '', done_feature = '',
        -- Sixty days may pass before everything of the user has ended at Commet.
        due_at = case when ended_at is null or renamed_at is null
                      then now() + interval '1 hour' end,
        given_sha256 = case when p_user <> v_new then sha256(convert_to(p_user, 'UTF8')) end,
        last_sequence = coalesce((select t.sequence from told t where t.user_id = v_new), 0)
    where user_id = v_new;
    update remembered r set
        had_trial = had_trial_before(r), free_until = free_until_of(r),
        user_id = case when may_owe(v_new) then v_new end
    where user_id = v_new;
    perform audit(v_new, jsonb_build_object(
        'id', gen_random_uuid(), 'actor_kind', 'system', 'action', 'account.erased',
        'outcome', 'done'
    ));
    return true;
end
$$;

-- Returns whether all outgoing events of a user have left under the user's id: they have a place,
-- are on the bus, and no endpoint waits for one. Events older than four days count as left, because
-- an endpoint gets an event for three days.
create or replace function are_events_out(p_user text) returns boolean
language sql stable as $$
    select not exists (
            select from event_delivery d
            where d.user_id = p_user and d.state = 'pending'
              and d.waits_since > now() - interval '4 days'
        )
        and not exists (
            select from outgoing_event e
            where e.user_id = p_user and e.inserted_at > now() - interval '4 days'
              and case when e.place is null
                  then exists (select from event_endpoint q where q.disabled_at is null)
                      or exists (select from event_bus)
                  else e.place > (select b.place from event_bus b) end
        )
$$;

-- Returns whether a user owes something, or may owe something later, because of a dispute, an
-- invoice, or usage that is not delivered. A product may want an erased id again before all that is
-- decided.
create or replace function may_owe(p_user text) returns boolean
language sql stable as $$
    select exists (select from debt d where d.user_id = p_user and d.ended_at is null)
        or exists (
            select from payment_trouble t
            where t.user_id = p_user and t.resolved_at is null
              and t.kind in ('dispute', 'failed_payment', 'unpaid_invoice')
        )
        or exists (select from invoice_search s where s.user_id = p_user)
        or exists (
            select from usage_delivery d
            where d.user_id = p_user and d.state <> 'sent'
              and (d.state = 'pending' or d.resolved_at is null)
        )
$$;

-- Returns whether a remembered person had a trial.
create or replace function had_trial_before(r remembered) returns boolean
language sql stable as $$
    select r.had_trial
        or exists (select from users u where u.id = r.user_id and u.inherits_trial)
        or exists (select from subscriptions s where s.user_id = r.user_id and s.had_trial)
$$;

-- Returns until when a remembered person has already had the included quantity of a free plan;
-- null: the person never had a free plan.
create or replace function free_until_of(r remembered) returns timestamptz
language sql stable as $$
    select greatest(
        r.free_until,
        (select u.free_until from users u where u.id = r.user_id),
        (select max(p.ends_at) from usage_period p where p.user_id = r.user_id and p.is_free)
    )
$$;

-- Gives a user what is remembered of the person: whether there was a trial, the end of the free
-- period, and the open debts. The user gets nothing else of the erased account.
create or replace function inherit() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    v_of remembered;
begin
    v_of := (select r from remembered r where r.person = new.person);
    if v_of.person is null or v_of.user_id = new.id then
        return null;
    end if;
    update users set
        inherits_trial = inherits_trial or had_trial_before(v_of),
        free_until = greatest(free_until, free_until_of(v_of))
    where id = new.id;
    if v_of.user_id is not null then
        update erasure set heir = new.id where user_id = v_of.user_id;
        perform move_debts(v_of.user_id, new.id);
    end if;
    return null;
end
$$;

-- An own account inherits when its address is proven. Before that, the account may be anybody's.
create or replace trigger new_user_inherits
after insert on users
for each row
when (new.person is not null and (not new.own_account or new.verified_at is not null))
execute function inherit();

create or replace trigger verified_user_inherits
after update of verified_at, person on users
for each row
when (
    new.person is not null and (not new.own_account or new.verified_at is not null)
    and (old.person is distinct from new.person
         or (old.verified_at is null and new.verified_at is not null))
)
execute function inherit();

-- Moves the open debts of an erased user to the same person's new account.
create or replace function move_debts(p_from text, p_to text) returns void
language plpgsql as $$
begin
    perform from users where id in (p_from, p_to) order by id for no key update;
    update debt set user_id = p_to where user_id = p_from and ended_at is null;
    if found then
        perform settle_debts(p_from);
        perform settle_debts(p_to);
    end if;
end
$$;

-- Returns our present id of a customer that Commet calls p_named. If p_named is the pseudonym of an
-- erased user, or the id that the pseudonym has replaced, this is the id of the erased user.
create or replace function present_id(p_named text) returns text
language sql stable as $$
    select coalesce(
        (select u.id from users u where u.id = p_named),
        (select e.user_id from erasure e where e.pseudonym = p_named),
        (select e.user_id from erasure e
         where e.given_sha256 = sha256(convert_to(p_named, 'UTF8'))
         order by e.asked_at desc limit 1),
        p_named
    )
$$;

-- Returns whether the customer that a webhook names is an erased user.
create or replace function is_erased(p_customer text) returns boolean
language sql stable as $$
    select exists (select from users u where u.id = find_user(p_customer) and u.erased_at is not null)
$$;

-- Makes the erasure of a user due again when a subscription of the user begins, because somebody
-- paid on an old checkout page.
create or replace function end_again() returns trigger
language plpgsql as $$
begin
    update erasure set due_at = now(), ended_at = null where user_id = new.user_id;
    return null;
end
$$;

create or replace trigger live_subscription_of_erased
after insert or update of status, user_id on subscriptions
for each row
when (new.status in ('active', 'trialing', 'past_due', 'paused'))
execute function end_again();
