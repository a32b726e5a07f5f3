-- Mails to users about outgoing events. docs/mail.md.

-- Returns the types of outgoing events that may cause a mail to the user.
create or replace function mailed_types() returns text[]
language sql immutable as $$
    select array[
        'usage.threshold_reached', 'spend.threshold_reached', 'payment.failed',
        'subscription.changed'
    ]
$$;

-- Returns the kind of the mail about an outgoing event, and the fields for its text. Both are null
-- if the event causes no mail.
create or replace function mail_of_event(
    p_event outgoing_event, out kind text, out fields jsonb
)
language sql stable as $$
    select m.kind, jsonb_strip_nulls(m.fields)
    from (
        select 'usage_threshold' as kind, jsonb_build_object(
            'feature', coalesce(
                (select n.name from entitlements n
                 where n.user_id = p_event.user_id and n.feature = p_event.data->>'feature'),
                p_event.data->>'feature'
            ),
            'percent', p_event.data#>>'{threshold,percent}',
            'used', p_event.data->>'used', 'included', p_event.data->>'included',
            'date', p_event.data->>'period_end'
        ) as fields
        where p_event.type = 'usage.threshold_reached'
        union all
        select 'spend_threshold', jsonb_build_object(
            'percent', p_event.data#>>'{threshold,percent}',
            'spent', p_event.data->>'spent', 'limit', p_event.data->>'limit',
            'currency', p_event.data->>'currency', 'date', p_event.data->>'period_end'
        )
        where p_event.type = 'spend.threshold_reached'
        union all
        select 'payment_failed', jsonb_build_object(
            'amount', p_event.data->>'amount', 'currency', p_event.data->>'currency'
        )
        -- Nobody is asked to make up for a payment that was made meanwhile.
        where p_event.type = 'payment.failed' and not exists (
            select from payment_trouble t
            where t.user_id = p_event.user_id and t.kind = 'failed_payment'
              and t.about = p_event.data->>'invoice_id' and t.outcome is not null
        )
        union all
        select 'trial_ending', jsonb_build_object(
            'plan', p_event.data->>'plan', 'date', p_event.data->>'trial_ends_at'
        )
        where p_event.type = 'subscription.changed' and p_event.data->'changes' ? 'trial_ending'
    ) as m
$$;

-- Returns the user's address for mails about events; null if the user gets none. It is the proven
-- address of an own account, or the address that the identity provider reported. A user whom a
-- product registered gets none, and neither does an address that was changed here and is not
-- proven.
create or replace function address_for_event_mails(p_user text) returns text
language sql stable as $$
    select u.email
    from users u
    left join identities i on i.user_id = u.id
    where u.id = p_user and u.erased_at is null and u.freed_at is null
      and (u.own_account and u.verified_at is not null
           or i.email_sha256 = sha256(convert_to(u.email, 'UTF8')))
$$;

-- Queues the mails about outgoing events, at most one for each event. The caller has locked the
-- users, so that none of them is erased meanwhile, and calls this in the transaction that places
-- the events. Users who have switched off a kind of mail get no mail of that kind.
create or replace function queue_event_mails(p_events uuid[]) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    r record;
    v_mail bigint;
begin
    for r in
        select e.id, e.user_id, m.kind, m.fields,
               -- The clock of the local stack may be ahead of the database's.
               greatest(e.occurred_at, now()) as at, address_for_event_mails(e.user_id) as address
        from outgoing_event e
        cross join lateral mail_of_event(e) as m
        where e.id = any (p_events) and m.kind is not null
          and not exists (select from mails x where x.event = e.id)
          and not (is_about_threshold(m.kind) and exists (
              select from mail_preferences p where p.user_id = e.user_id and not p.thresholds
          ))
        order by e.entry
    loop
        if r.address is not null then
            v_mail := queue_mail(r.user_id, r.address, r.kind, r.fields, r.at);
            update mails set event = r.id where id = v_mail;
        end if;
    end loop;
end
$$;

-- Replaces a user's mail preferences. If that changes anything, writes p_entry into the audit
-- trail. Returns null if the user is unknown or erased.
create or replace function change_mail_preferences(p_user text, p_thresholds boolean, p_entry jsonb)
returns boolean
language plpgsql as $$
begin
    -- The lock keeps the user from being erased meanwhile, and makes two changes run one after the
    -- other.
    perform from users where id = p_user and erased_at is null for no key update;
    if not found then
        return null;
    end if;
    if p_thresholds is distinct from coalesce(
        (select p.thresholds from mail_preferences p where p.user_id = p_user), true
    ) then
        insert into mail_preferences (user_id, thresholds) values (p_user, p_thresholds)
        on conflict (user_id) do update
        set thresholds = excluded.thresholds, changed_at = now();
        perform audit(p_user, p_entry);
    end if;
    return p_thresholds;
end
$$;
