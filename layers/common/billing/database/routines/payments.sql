-- Payment trouble: writing news about it, and reading disputes.

-- Writes news of time p_at about one payment trouble of a user, and updates users.has_dispute. The
-- caller has locked the user. p_news:
--   kind, about   name the trouble
--   known         {column: value} of payment_trouble; outcome is null if the trouble goes on
--   dated         false if Commet did not say when: such news never overwrites other news
-- Each column keeps the value of the newest news that stated it, so the row ends the same in
-- whichever order news arrives. For the same reason, if two values have the same time, the greater
-- text wins: an outcome wins over none, and `won` over `lost`.
create or replace function record_payment_trouble(
    p_user text, p_at timestamptz, p_news jsonb
) returns void
language plpgsql as $$
declare
    v_time numeric := case when (p_news->>'dated')::boolean then extract(epoch from p_at) else 0 end;
    v_stated jsonb := p_news->'known' || jsonb_build_object(
        'resolved_at', case when p_news->'known'->>'outcome' is not null then p_at end
    );
    v_old payment_trouble;
    v_new payment_trouble;
    v_newer jsonb;
begin
    insert into payment_trouble (user_id, kind, about, opened_at, changed_at)
    values (p_user, p_news->>'kind', p_news->>'about', p_at, p_at)
    on conflict (user_id, kind, about) do nothing;
    v_old := (
        select t from payment_trouble t
        where t.user_id = p_user and t.kind = p_news->>'kind' and t.about = p_news->>'about'
    );
    v_new := jsonb_populate_record(v_old, v_stated);
    v_newer := (
        select coalesce(jsonb_object_agg(s.key, s.value), '{}')
        from jsonb_each(v_stated) as s
        where v_time > coalesce((v_old.known_at->>s.key)::numeric, -1)
           or (v_time = (v_old.known_at->>s.key)::numeric
               and coalesce(to_jsonb(v_new)->>s.key, '') collate "C"
                   > coalesce(to_jsonb(v_old)->>s.key, '') collate "C")
    );
    v_new := jsonb_populate_record(v_old, v_newer);
    update payment_trouble set
        invoice_id = v_new.invoice_id, transaction_id = v_new.transaction_id,
        payment_link_id = v_new.payment_link_id, subscription_id = v_new.subscription_id,
        amount = v_new.amount, currency = v_new.currency, reason = v_new.reason,
        recovery_url = v_new.recovery_url, resolved_at = v_new.resolved_at,
        outcome = v_new.outcome,
        opened_at = least(opened_at, p_at), changed_at = greatest(changed_at, p_at),
        known_at = known_at || (
            select coalesce(jsonb_object_agg(k, v_time), '{}') from jsonb_object_keys(v_newer) as k
        )
    where user_id = p_user and kind = v_old.kind and about = v_old.about;

    update users u set has_dispute = disputes.are_open
    from (
        select exists (
            select from payment_trouble t
            where t.user_id = p_user and t.kind = 'dispute' and t.resolved_at is null
        ) as are_open
    ) as disputes
    where u.id = p_user and u.has_dispute <> disputes.are_open;

    -- A lost dispute becomes a debt, unless newer news says that it was won. The debt's amount is
    -- read later, because only Commet's transaction says how much of the amount is tax
    -- (debts/reading.py).
    if v_new.kind = 'dispute' and v_new.outcome = 'lost' and v_new.amount > 0 then
        perform open_debt(
            p_user, 'lost_dispute', v_new.about, null, v_new.currency, v_new.resolved_at
        );
    elsif v_new.kind = 'dispute' and v_new.outcome = 'won' then
        perform end_debt_of('lost_dispute', v_new.about, 'withdrawn', p_at);
    end if;
    -- An invoice whose payment Commet has given up becomes a debt, if the invoice has overage;
    -- reading the invoice shows that. No webhook says that the invoice is uncollectible, and the
    -- subscription may run again before we hear that it had ended.
    if v_new.kind = 'failed_payment' and v_new.outcome = 'given_up' then
        perform open_debt(p_user, 'voided_invoice', v_new.about, null, null, v_new.resolved_at);
    end if;
end
$$;

-- Returns the amount and currency of a transaction's dispute, whoever the transaction belongs to.
-- Returns no row if no dispute is known.
create or replace function disputed(p_transaction text)
returns table (amount numeric, currency text)
language sql stable as $$
    select t.amount, t.currency
    from payment_trouble t
    where t.kind = 'dispute' and t.about = p_transaction and t.amount is not null
    order by t.changed_at desc
    limit 1
$$;

-- Ends an open dispute that no webhook has ended. Returns whether there was one. p_seen is the
-- dispute's `changed_at` that the caller has read: if there is newer news, nothing changes. Null:
-- ends the dispute in any case.
create or replace function end_dispute(
    p_user text, p_transaction text, p_seen timestamptz, p_at timestamptz, p_outcome text
) returns boolean
language plpgsql as $$
declare
    v_changed_at timestamptz;
begin
    perform from users where id = p_user for no key update;
    v_changed_at := (
        select t.changed_at from payment_trouble t
        where t.user_id = p_user and t.kind = 'dispute' and t.about = p_transaction
          and t.resolved_at is null and t.changed_at = coalesce(p_seen, t.changed_at)
    );
    if v_changed_at is null then
        return false;
    end if;
    perform record_payment_trouble(
        -- The time is after that of all other news: a webhook may have a time that is a little
        -- ahead of our clock.
        p_user, greatest(p_at, v_changed_at + interval '1 microsecond'),
        jsonb_build_object(
            'kind', 'dispute', 'about', p_transaction, 'dated', true,
            'known', jsonb_build_object('outcome', p_outcome)
        )
    );
    return true;
end
$$;
