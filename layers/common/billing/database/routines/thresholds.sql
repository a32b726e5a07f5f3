-- Finding out which thresholds were reached, and emitting events about them
-- (tables/0013_thresholds.sql). The rules of locking are at the top of tables/0004_usage.sql: every
-- caller that writes here has locked the user.

-- Returns a user's thresholds of one feature, or, with p_measure 'spend' and p_feature '', the
-- user's thresholds of spending. `mark` names each threshold, and `value` is the quantity or amount
-- that has to be reached. p_whole is the included quantity, or the spend limit. If p_whole is null
-- or 0, thresholds in percent are left out.
-- Of the operator's and the product's thresholds only the most specific ones count. If there are
-- none, the defaults count. A user's own thresholds count in addition, and hide no others.
create or replace function thresholds_in_effect(
    p_user text, p_measure text, p_feature text, p_whole numeric
) returns table (mark text, percent integer, amount numeric, value numeric)
language sql stable as $$
    with chosen as materialized (
        select n.percent, n.amount,
               case when n.set_by = 'user' then 0
                    else 1 + 2 * (n.user_id is null)::integer + (n.feature is null)::integer
               end as rank
        from threshold n
        where (n.user_id = p_user or n.user_id is null) and n.measure = p_measure
          and (n.feature = p_feature or n.feature is null)
    )
    select coalesce(t.percent || '%', trim_scale(t.amount)::text), t.percent, t.amount,
           coalesce(t.amount, p_whole * t.percent / 100)
    from (
        select c.percent, c.amount from chosen c
        where c.rank = 0 or c.rank = (select min(rank) from chosen where rank > 0)
        union
        select d.percent, null from (values (80), (100)) as d (percent)
        where not exists (select from chosen where rank > 0)
    ) as t
    where t.amount is not null or p_whole > 0
$$;

-- Writes into threshold_reached which thresholds of a period are reached now that p_reached is used
-- or spent, and emits an event for each new one. If p_reached is below a threshold again, its row
-- is deleted, so that the next event can follow. Returns the value of the lowest threshold that
-- lies ahead, null if there is none.
create or replace function note_thresholds(
    p_user text, p_period bigint, p_measure text, p_feature text, p_reached numeric,
    p_whole numeric, p_data jsonb, p_now timestamptz
) returns numeric
language plpgsql as $$
declare
    r record;
begin
    delete from threshold_reached n
    where n.period = p_period and n.measure = p_measure and n.feature = p_feature
      and p_reached < coalesce(
          (
              select t.value
              from thresholds_in_effect(p_user, p_measure, p_feature, p_whole) as t
              where t.mark = n.mark
          ),
          n.value
      );
    for r in
        select t.mark, t.percent, t.amount, t.value
        from thresholds_in_effect(p_user, p_measure, p_feature, p_whole) as t
        where t.value <= p_reached
        order by t.value, t.mark
    loop
        insert into threshold_reached (period, measure, feature, mark, value, reached_at)
        values (p_period, p_measure, p_feature, r.mark, r.value, p_now)
        on conflict do nothing;
        if found then
            perform emit_event(
                p_user, p_measure || '.threshold_reached', p_now,
                p_data || jsonb_build_object('threshold', case
                    when r.percent is not null then jsonb_build_object('percent', r.percent::text)
                    else jsonb_build_object('amount', trim_scale(r.amount)::text)
                end)
            );
        else
            -- Another limit or included quantity gives the threshold another value.
            update threshold_reached n set value = r.value
            where n.period = p_period and n.measure = p_measure and n.feature = p_feature
              and n.mark = r.mark and n.value is distinct from r.value;
        end if;
    end loop;
    return (
        select min(t.value)
        from thresholds_in_effect(p_user, p_measure, p_feature, p_whole) as t
        where t.value > p_reached
    );
end
$$;

-- Emits events for the thresholds of a feature that are reached. Writes into `look_at` at which use
-- the thresholds have to be checked next. Does nothing for a period that is over.
create or replace function tell_thresholds(
    p_user text, p_period bigint, p_feature text, p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_use record;
    v_next numeric;
begin
    select u.used, case when e.unlimited is not true then coalesce(e.included, 0) end as included,
           p.starts_at, p.ends_at
    into v_use
    from usage_period p
    cross join lateral used_in(p, p_feature, p_now) as u (used)
    left join entitlements e on e.user_id = p_user and e.feature = p_feature
    where p.id = p_period and p.closed_at is null;
    if not found then
        return;
    end if;
    v_next := note_thresholds(
        p_user, p_period, 'usage', p_feature, v_use.used, v_use.included,
        jsonb_build_object(
            'feature', p_feature, 'used', trim_scale(v_use.used)::text,
            'included', trim_scale(v_use.included)::text,
            'period_start', rfc3339(v_use.starts_at), 'period_end', rfc3339(v_use.ends_at)
        ),
        p_now
    );
    update usage_total set look_at = v_next
    where period = p_period and feature = p_feature and look_at is distinct from v_next;
end
$$;

-- Returns the quantity that uses up what the period includes of a feature: the total, what Commet
-- booked here of an earlier period (`carried`), and in a free plan what was used in earlier free
-- periods (used_before_of).
create or replace function used_in(p usage_period, p_feature text, p_now timestamptz)
returns numeric
language sql stable as $$
    select coalesce(
        (
            select t.total + t.carried from usage_total t
            where t.period = p.id and t.feature = p_feature
        ),
        0
    ) + case when p.is_free then used_before_of(p.id, p_feature, p_now) else 0 end
$$;

-- Emits events for the user's spend thresholds that are reached. Held reservations do not count as
-- spent.
create or replace function tell_spending(
    p_user text, p_period bigint, p_now timestamptz, p_spending jsonb
) returns void
language plpgsql as $$
declare
    v_spending record;
    v_next numeric;
begin
    select o.spent, o.ceiling, o.currency, p.starts_at, p.ends_at into v_spending
    from usage_period p
    cross join lateral booked_overage_of(array[p_user], array[p.id], p_spending) as o
    where p.id = p_period and p.closed_at is null;
    if not found then
        return;
    end if;
    v_next := note_thresholds(
        p_user, p_period, 'spend', '', v_spending.spent, v_spending.ceiling,
        jsonb_build_object(
            'spent', trim_scale(v_spending.spent)::text,
            'limit', trim_scale(v_spending.ceiling)::text, 'currency', v_spending.currency,
            'period_start', rfc3339(v_spending.starts_at),
            'period_end', rfc3339(v_spending.ends_at)
        ),
        p_now
    );
    update usage_period set spend_look_at = v_next
    where id = p_period and spend_look_at is distinct from v_next;
end
$$;

-- Emits events for a user's usage thresholds that are reached, after the included quantity or a
-- threshold was changed. Spend thresholds are checked when overage is next booked. If the overage
-- costs less than a spend threshold now, the threshold can be reached again. While the user has no
-- feature, the cost is not known: Commet may have listed no features for a moment.
create or replace function look_at_usage_again(p_user text, p_now timestamptz) returns void
language sql as $$
    delete from threshold_reached n
    using usage_period p
    where p.user_id = p_user and p.closed_at is null and n.period = p.id
      and n.measure = 'spend' and n.feature = ''
      and exists (
          select from entitlements e
          where e.user_id = p_user and (e.allowed or e.included > 0)
      )
      and n.value > (
          select o.spent from booked_overage_of(array[p_user], array[p.id], '{}') as o
      );
    update usage_period set spend_look_at = 0
    where user_id = p_user and closed_at is null and spend_look_at is distinct from 0;
    select tell_thresholds(p_user, t.period, t.feature, p_now)
    from usage_period p
    join usage_total t on t.period = p.id
    where p.user_id = p_user and p.closed_at is null
    order by t.feature
$$;

-- Does the same as look_at_usage_again, and also checks the spend thresholds now. Locks the user.
create or replace function look_again(p_user text, p_now timestamptz, p_spending jsonb) returns void
language plpgsql as $$
begin
    perform from users where id = p_user for no key update;
    perform look_at_usage_again(p_user, p_now);
    perform tell_spending(p_user, p.id, p_now, p_spending)
    from usage_period p
    where p.user_id = p_user and p.closed_at is null;
end
$$;

-- Adds a threshold of p_user, or, if p_user is null, of all users. `verdict` is 'added', 'exists',
-- 'too_many' or 'unknown_user'. `kept` is the new threshold, or the equal one that exists. If the
-- threshold of one user is reached already, an event is emitted at once; for a threshold of all
-- users, the next run of `reconcile` emits the events.
create or replace function add_threshold(
    p_id text, p_user text, p_set_by text, p_measure text, p_feature text, p_percent integer,
    p_amount numeric, p_most integer, p_now timestamptz, p_spending jsonb,
    out verdict text, out kept threshold
)
language plpgsql as $$
begin
    if p_user is null then
        perform request_look();
    else
        perform from users where id = p_user and erased_at is null for no key update;
        if not found then
            verdict := 'unknown_user';
            return;
        end if;
    end if;
    kept := (
        select n from threshold n
        where n.user_id is not distinct from p_user and n.set_by = p_set_by
          and n.measure = p_measure and n.feature is not distinct from p_feature
          and n.percent is not distinct from p_percent and n.amount is not distinct from p_amount
    );
    if kept.id is not null then
        -- If the connection broke, the statement ran twice, and its first run added the threshold.
        verdict := case when kept.id = p_id then 'added' else 'exists' end;
        return;
    end if;
    if p_most <= (
        select count(*) from threshold n
        where n.user_id is not distinct from p_user and n.set_by = p_set_by
    ) then
        verdict := 'too_many';
        return;
    end if;
    insert into threshold (id, user_id, set_by, measure, feature, percent, amount, created_at)
    values (p_id, p_user, p_set_by, p_measure, p_feature, p_percent, p_amount, p_now);
    if p_user is not null then
        perform look_again(p_user, p_now, p_spending);
    end if;
    verdict := 'added';
    kept := (select n from threshold n where n.id = p_id);
end
$$;

-- Deletes a threshold. p_user is the user who may delete only an own threshold; null: a threshold
-- of the product or operator. Returns whether there was such a threshold.
create or replace function remove_threshold(
    p_id text, p_user text, p_now timestamptz, p_spending jsonb
) returns boolean
language plpgsql as $$
declare
    v_of text;
begin
    select n.user_id into v_of from threshold n
    where n.id = p_id
      and case when p_user is null then n.set_by <> 'user'
               else n.set_by = 'user' and n.user_id = p_user end;
    if not found then
        return false;
    end if;
    perform from users where id = v_of for no key update;
    delete from threshold where id = p_id;
    if not found then
        return false;
    end if;
    if v_of is null then
        perform request_look();
    else
        perform look_again(v_of, p_now, p_spending);
    end if;
    return true;
end
$$;

-- Makes the next run of `reconcile` check the thresholds of all users. If two callers run at once,
-- the second waits for the first.
create or replace function request_look() returns void
language sql as $$
    insert into rounds as c (name, requested) values ('thresholds', '{"after": ""}')
    on conflict (name) do update set requested = excluded.requested
$$;
