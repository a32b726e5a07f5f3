-- Debts. Every routine that changes a user's debts locks the user first (see 0004_usage.sql) and
-- ends with settle_debts, so that `users.has_debt` and the offered link always fit the open debts.

-- Returns how many decimals a charged amount of this currency has. billing/amounts.py has the same
-- list.
create or replace function decimals_of(p_currency text) returns integer
language sql immutable as $$
    select case
        when lower(p_currency collate "C") in ('bif', 'clp', 'djf', 'gnf', 'isk', 'jpy', 'kmf', 'krw', 'mga',
            'pyg', 'rwf', 'ugx', 'uyi', 'vnd', 'vuv', 'xaf', 'xof', 'xpf') then 0
        when lower(p_currency collate "C") in ('bhd', 'iqd', 'jod', 'kwd', 'lyd', 'omr', 'tnd') then 3
        when lower(p_currency collate "C") in ('clf', 'uyw') then 4
        else 2
    end
$$;

-- The open debts that count, by user and currency. A debt counts if its amount is known and its
-- currency has a floor. `is_debtor`: the debts add up to the floor of their currency.
create or replace view debtor as
select d.user_id, f.currency, array_agg(d.id order by d.id) as debts, sum(d.amount) as amount,
       sum(d.amount - d.tax) as net, sum(d.amount) >= f.amount as is_debtor
from debt d
join debt_floor f on f.currency = d.currency
where d.ended_at is null and d.amount > 0
group by d.user_id, f.currency, f.amount;

-- Updates `users.has_debt` and the offered link after the user's open debts changed. `has_debt` is
-- true if the debts of any currency reach its floor. The offered link becomes 'superseded', unless
-- it still asks for exactly the debts of its currency, and these reach the floor. The caller has
-- locked the user.
create or replace function settle_debts(p_user text) returns void
language sql as $$
    update users u set has_debt = not u.has_debt
    where u.id = p_user
      and u.has_debt <> exists (select from debtor o where o.user_id = p_user and o.is_debtor);
    update debt_link l set
        state = 'superseded', due_at = case when l.payment_id is not null then now() end
    where l.user_id = p_user and l.state = 'offered'
      and not exists (
          select from debtor o
          where o.user_id = p_user and o.debts = l.debts and o.net = l.net
            and o.currency = l.currency and o.is_debtor
      );
$$;

-- Locks the users who have these debts, and p_user, until the transaction ends. Returns the ids of
-- the users who have the debts now. A debt gets another user when a person comes back (move_debts);
-- this may happen while the routine waits for a lock.
create or replace function lock_debtors(p_debts bigint[], p_user text default null) returns text[]
language plpgsql as $$
declare
    v_locked text[] := '{}';
    v_users text[];
    v_all text[];
begin
    loop
        v_users := array(select distinct d.user_id from debt d where d.id = any (p_debts));
        v_all := array_remove(v_users || p_user, null);
        exit when v_all <@ v_locked;
        perform from users where id = any (v_all) order by id for no key update;
        v_locked := v_locked || v_all;
    end loop;
    return v_users;
end
$$;

-- Locks the user and calls settle_debts. reconcile uses it when the floor has changed.
create or replace function judge_debts(p_user text) returns void
language plpgsql as $$
begin
    perform from users where id = p_user for no key update;
    perform settle_debts(p_user);
end
$$;

-- Opens a debt, one for each source. If a debt with this source exists, whoever has it, nothing
-- changes. Returns the id of the debt. p_amount is in major units, and null while the amount is not
-- known. p_tax is the part of the amount that is tax.
create or replace function open_debt(
    p_user text, p_kind text, p_source text, p_amount numeric, p_currency text, p_now timestamptz,
    p_tax numeric default 0
) returns bigint
language plpgsql as $$
declare
    v_id bigint;
begin
    perform from users where id = p_user for no key update;
    insert into debt (user_id, kind, source, amount, tax, currency, opened_at, due_at)
    values (
        p_user, p_kind, p_source, round(p_amount, decimals_of(p_currency)),
        round(p_tax, decimals_of(p_currency)), lower(p_currency collate "C"), p_now,
        case when p_amount is null then now() end
    )
    on conflict (kind, source) do nothing
    returning id into v_id;
    if not found then
        return (select id from debt where kind = p_kind and source = p_source);
    end if;
    perform settle_debts(p_user);
    return v_id;
end
$$;

-- Ends those of these debts that are open, whoever has them. Returns how many it ended. If the
-- debts were paid or forgiven, resolves the deliveries they come from, because a redrive would bill
-- those a second time.
create or replace function end_debts(
    p_debts bigint[], p_by text, p_author text, p_note text, p_now timestamptz
) returns bigint
language plpgsql as $$
declare
    v_users text[] := lock_debtors(p_debts);
    v_ended bigint[];
begin
    with ended as (
        update debt set
            ended_at = p_now, ended_by = p_by, author = p_author, note = p_note, due_at = null
        where id = any (p_debts) and ended_at is null
        returning id
    )
    select coalesce(array_agg(id), '{}') into v_ended from ended;
    if p_by <> 'withdrawn' then
        update usage_delivery set
            resolved_at = now(), note = coalesce(p_note, 'debt ' || debt || ' was ' || p_by)
        where debt = any (v_ended) and state = 'parked' and resolved_at is null;
    end if;
    perform settle_debts(u.id) from unnest(v_users) as u (id);
    return cardinality(v_ended);
end
$$;

-- Ends the debt with this source if it is open, whoever has it. Returns how many debts it ended (0
-- or 1).
create or replace function end_debt_of(
    p_kind text, p_source text, p_by text, p_now timestamptz
) returns bigint
language sql as $$
    select end_debts(array[d.id], p_by, null, null, p_now)
    from debt d
    where d.kind = p_kind and d.source = p_source and d.ended_at is null
$$;

-- Writes the amount that Commet names for a debt whose amount is not known. Does nothing if the
-- amount is known. An amount of 0 ends the debt.
create or replace function record_debt_amount(
    p_debt bigint, p_amount numeric, p_tax numeric, p_currency text, p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_users text[] := lock_debtors(array[p_debt]);
begin
    update debt set
        amount = round(p_amount, decimals_of(p_currency)),
        tax = round(p_tax, decimals_of(p_currency)),
        currency = lower(p_currency collate "C"), due_at = null, reads = reads + 1,
        ended_at = case when p_amount = 0 then p_now end,
        ended_by = case when p_amount = 0 then 'withdrawn' end
    where id = p_debt and amount is null and ended_at is null;
    perform settle_debts(u.id) from unnest(v_users) as u (id);
end
$$;

-- Gives each lost delivery of these periods a debt, if it has none: the period's open debt, or a
-- new debt if the open one is on a payment link, because the amount of a link must not change. The
-- caller has locked the user.
create or replace function open_lost_usage(p_user text, p_periods bigint[], p_now timestamptz)
returns void
language plpgsql as $$
declare
    v_period bigint;
    v_debt bigint;
begin
    for v_period in
        select distinct d.period from usage_delivery d
        where d.period = any (p_periods) and d.user_id = p_user and d.debt is null
          and d.state = 'parked' and d.reason = 'lost_to_cancellation' and d.resolved_at is null
    loop
        select o.id into v_debt
        from debt o
        where o.user_id = p_user and o.kind = 'lost_usage' and o.ended_at is null
          and split_part(o.source, ':', 1) = v_period::text
          and not exists (
              select from debt_link l where l.user_id = p_user and o.id = any (l.debts)
          )
        limit 1;
        if not found then
            insert into debt (user_id, kind, source, opened_at)
            select p_user, 'lost_usage',
                   v_period || case when count(*) > 0 then ':' || count(*) + 1 else '' end, p_now
            from debt o  -- of any user: the debt of a person who came back is the new account's
            where o.kind = 'lost_usage' and split_part(o.source, ':', 1) = v_period::text
              and o.source >= v_period::text and o.source < v_period || ';'  -- ';' follows ':'
            returning id into v_debt;
        end if;
        update usage_delivery d set debt = v_debt
        where d.period = v_period and d.user_id = p_user and d.debt is null
          and d.state = 'parked' and d.reason = 'lost_to_cancellation' and d.resolved_at is null;
    end loop;
    perform price_lost_usage(p_user, p_now);
end
$$;

-- Returns the user's id and, if the user was erased, the ids of the accounts with which the person
-- came back, each one after its predecessor.
create or replace function heirs_of(p_user text) returns text[]
language sql stable as $$
    with recursive heir as (
        select p_user collate "C" as id
        union
        select e.heir from erasure e join heir h on h.id = e.user_id where e.heir is not null
    )
    select array_agg(id) from heir
$$;

-- Sets the amount of each open debt for lost usage to the sum of its lost deliveries, rounded once.
-- It does so for the debts of the user, and for debts that moved to the account with which the
-- person came back, because the deliveries remain with the old account. The amount is null if a
-- price is not known, or if currencies differ. A debt without deliveries ends. The caller has
-- locked the user.
create or replace function price_lost_usage(p_user text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_users text[] := heirs_of(p_user);
begin
    perform from users where id = any (v_users) order by id for no key update;
    update debt o set
        amount = s.amount, currency = s.currency,
        ended_at = case when s.amount = 0 then p_now end,
        ended_by = case when s.amount = 0 then 'withdrawn' end
    from (
        select w.id, min(lower(d.currency collate "C")) as currency,
               case
                   when count(d.seq) = 0 then 0
                   when bool_and(d.amount is not null and d.currency is not null)
                        and min(lower(d.currency collate "C")) = max(lower(d.currency collate "C"))
                       then round(sum(d.amount), decimals_of(min(d.currency)))
               end as amount
        from debt w
        left join usage_delivery d
            on d.debt = w.id and d.state = 'parked' and d.reason = 'lost_to_cancellation'
            and d.resolved_at is null
        where w.user_id = any (v_users) and w.kind = 'lost_usage' and w.ended_at is null
        group by w.id
    ) as s
    where o.id = s.id;
    perform settle_debts(u.id) from unnest(v_users) as u (id);
end
$$;

-- Records that one of our payment links was paid. The debts on it end, whoever has them by now. The
-- part of the payment beyond the debts that were still open is written to `overpaid`, which raises
-- an alarm. Returns false if the link was already recorded as paid.
create or replace function complete_link(
    p_payment text, p_transaction text, p_now timestamptz
) returns boolean
language plpgsql as $$
declare
    v_link record;
    v_open numeric;
begin
    select l.id, l.user_id, l.debts, l.net into v_link
    from debt_link l where l.payment_id = p_payment;
    if not found then
        return false;
    end if;
    perform lock_debtors(v_link.debts, v_link.user_id);
    update debt_link set transaction_id = coalesce(transaction_id, p_transaction)
    where id = v_link.id;
    select coalesce(sum(d.amount - d.tax), 0) into v_open
    from debt d
    where d.id = any (v_link.debts) and d.ended_at is null;
    update debt_link set
        state = 'paid', ended_at = p_now, due_at = null, leased_until = null,
        overpaid = greatest(net - v_open, 0)
    where id = v_link.id and state <> 'paid';
    if not found then
        return false;
    end if;
    perform end_debts(v_link.debts, 'paid', null, null, p_now);
    return true;
end
$$;

-- Applies what a webhook says about debts. p_news is {"void": invoice}, {"collected": invoice},
-- {"link": payment, "transaction": id or null} or {"refunded": payment}. `record_change` calls this
-- routine under the user's lock.
create or replace function record_debt_news(p_user text, p_news jsonb, p_now timestamptz)
returns void
language plpgsql as $$
begin
    if p_news ? 'void' then
        perform open_debt(p_user, 'voided_invoice', p_news->>'void', null, null, p_now);
    elsif p_news ? 'collected' then
        perform end_debt_of('voided_invoice', p_news->>'collected', 'collected', p_now);
    elsif p_news ? 'link' then
        perform complete_link(p_news->>'link', p_news->>'transaction', p_now);
    elsif p_news ? 'refunded' then
        update debt_link set refunded_at = p_now
        where payment_id = p_news->>'refunded' and overpaid > 0 and refunded_at is null;
    end if;
end
$$;

-- Offers the user's open debts of one currency on a payment link, and returns that link. Debts of
-- the next currency are offered when these are paid. `is_leased`: the caller must ask Commet for
-- the link now; nobody else asks for 30 seconds. If the link is neither leased nor has a url,
-- another request is asking. Returns no row if nothing is owed.
create or replace function offer_debts(p_user text, p_now timestamptz)
returns table (
    id bigint, debts bigint[], net numeric, currency text, payment_id text, url text,
    total numeric, is_leased boolean
)
language plpgsql as $$
declare
    v_id bigint;
    v_leased boolean := false;
begin
    perform from users u where u.id = p_user for no key update;
    perform settle_debts(p_user);  -- a link that asks for other debts is then no longer 'offered'
    insert into debt_link (user_id, debts, net, currency, created_at)
    select o.user_id, o.debts, o.net, o.currency, p_now
    from debtor o
    where o.user_id = p_user and o.is_debtor
      and not exists (
          select from debt_link l where l.user_id = p_user and l.state = 'offered'
      )
    order by o.currency
    limit 1;
    update debt_link l set leased_until = now() + interval '30 seconds'
    where l.user_id = p_user and l.state = 'offered' and l.payment_id is null
      and (l.leased_until is null or l.leased_until < now())
    returning l.id into v_id;
    v_leased := found;
    return query
        select l.id, l.debts, l.net, l.currency, l.payment_id, l.url, l.total, v_leased
        from debt_link l
        where l.user_id = p_user and l.state = 'offered';
end
$$;

-- Records a live subscription that has ended, so that reconcile looks through its invoices.
create or replace function search_invoices() returns trigger
language plpgsql as $$
begin
    insert into invoice_search (subscription_id, user_id, due_at)
    values (new.id, new.user_id, now())
    on conflict (subscription_id) do update set due_at = now(), searches = 0;
    return null;
end
$$;

create or replace trigger search_invoices_of_ended
after update of status on subscriptions
for each row
when (old.status in ('active', 'past_due', 'paused') and new.status = 'canceled')
execute function search_invoices();
