-- What can be said of usage and its deliveries beside single rows. How sending, doubt and repair go
-- together is told in docs/usage-delivery.md.

-- What usage beyond the included costs, in major units; unit prices are in the rate scale. Null where
-- there is any and its price is not known.
create or replace function overage_value(p_used numeric, p_included numeric, p_unit_price numeric)
returns numeric
language sql immutable as $$
    select case when p_used > p_included then (p_used - p_included) * p_unit_price / 10000 else 0 end
$$;

-- On what terms a total is billed: as its period ended, or as they are now. `included` is null
-- where it is unlimited, `unit_price` 0 where nothing beyond it is billed and null where that is not
-- known. `carried` takes up what is included before anything that was counted here does.
create or replace view usage_terms as
select t.period, t.feature,
       case when k.kept then t.included
            when e.unlimited is not true then coalesce(e.included, 0) end as included,
       case when k.kept then t.unit_price
            when e.overage_enabled is false then 0 else e.unit_price end as unit_price,
       case when k.kept then t.currency else e.currency end as currency,
       t.carried
from usage_total t
join usage_period p on p.id = t.period
cross join lateral (select coalesce(t.terms_at >= p.closed_at, false) as kept) as k
left join entitlements e on e.user_id = p.user_id and e.feature = t.feature;

-- Keeps the terms of what was counted so far: they are about to be replaced. A period that is over
-- keeps the first it gets, those it ended with.
create or replace function keep_terms(p_user text, p_now timestamptz) returns void
language sql as $$
    update usage_total t set
        included = case when not e.unlimited then coalesce(e.included, 0) end,
        unit_price = case when e.overage_enabled then e.unit_price else 0 end,
        currency = e.currency,
        terms_at = p_now
    from usage_period p
    join entitlements e on e.user_id = p.user_id
    where p.user_id = p_user and t.period = p.id and t.feature = e.feature
      and (p.closed_at is null or t.terms_at is null or t.terms_at < p.closed_at)
      and (e.allowed or e.included > 0 or e.unlimited or e.overage_enabled)
$$;

-- What Commet counts of a total in its period, as far as it came from here, and what that is to be
-- replaced by: whole units, which is what Commet takes there. What is parked is not Commet's to know,
-- and is added when it is driven again.
create or replace function replacement_of(p_total usage_total, out told numeric, out value numeric)
language sql stable as $$
    select d.here + m.moved,
           greatest(floor(p_total.total - d.parked - d.elsewhere + m.moved), 0)
    from (
        select coalesce(sum(n.quantity) filter (
                   where n.state = 'sent' and n.billed_period = n.period), 0) as here,
               -- What this period counts and Commet booked in another.
               coalesce(sum(n.quantity) filter (
                   where n.state = 'sent' and n.billed_period <> n.period), 0) as elsewhere,
               coalesce(sum(n.quantity) filter (where n.state = 'parked'), 0) as parked
        from usage_delivery n
        where n.period = p_total.period and n.feature = p_total.feature
    ) as d
    cross join (
        -- What was counted in another period and Commet booked in this one.
        select coalesce(sum(n.quantity), 0) as moved
        from usage_delivery n
        where n.billed_period = p_total.period and n.feature = p_total.feature
          and n.billed_period <> n.period
    ) as m
$$;

-- Whether a total that shrank has anything to put right before its period ends: what was refused and
-- is not used any more, or more at Commet than there is. What else is claimed too much is in doubt or
-- was booked in another period, and no replacement changes that.
create or replace function can_be_set(p_total usage_total) returns boolean
language sql stable as $$
    select refused_of(p_total.period, p_total.feature) > 0 or r.value <> r.told
    from replacement_of(p_total) as r
$$;

-- Begins to replace Commet's total of an open period by ours (PUT /usage). Where corrections have
-- taken back more than was sent since, what was refused is lowered first: Commet has none of it. Commet
-- takes whole units: what is left becomes growth again and follows as usage. Only with nothing of that
-- user and feature in flight, and from then on nothing is claimed until Commet has answered.
-- p_reason is told to Commet: 'correction' is for a total that shrank, and for nothing else. A repair
-- replaces what Commet was told by the same, because Commet's number is another.
-- Answers 'begun', 'waiting' (something is in flight: new deliveries are held back until somebody
-- asks again, but not for long: the period may be about to end), 'over' (the period has ended, or
-- is about to: too late for that), 'even' (ours is what Commet was told) or 'unsure' (something was
-- sent since the period began of which nobody knows where Commet booked it: no number of ours is
-- known to be right).
-- One per statement: it locks the user and then a total, and holds both until the statement ends.
create or replace function begin_set(
    p_period bigint, p_feature text, p_now timestamptz, p_quiet interval, p_margin interval,
    p_reason text
) returns text
language plpgsql as $$
declare
    v_period usage_period;
    v_total usage_total;
    v_set record;
begin
    perform from users u join usage_period p on p.user_id = u.id where p.id = p_period
    for no key update of u;
    select * into v_period from usage_period where id = p_period;
    if v_period.closed_at is not null or p_now >= v_period.ends_at - p_margin then
        return 'over';
    end if;
    if exists (
        select from usage_delivery d
        where d.user_id = v_period.user_id and d.feature = p_feature
          and d.state = 'sent' and d.billed_period is null and d.compare_at is null
          and d.kind <> 'set' and d.answered_at > v_period.starts_at - interval '1 minute'
    ) then
        return 'unsure';
    end if;
    -- The row is written, not only locked: a claim that was waiting for it looks at it again.
    insert into usage_total as t (period, feature, total, held_until)
    values (p_period, p_feature, 0, now() + interval '90 seconds')
    on conflict (period, feature) do update set held_until = excluded.held_until
    where t.held_until is distinct from 'infinity'
    returning * into v_total;
    if v_total is null
       or exists (
           select from usage_delivery d
           where d.user_id = v_period.user_id and d.feature = p_feature
             and (d.state = 'pending' or d.compare_at is not null)
       )
       -- Growth of an earlier period, which Commet is going to count in this one. Asked in one
       -- breath with what is pending: a claim turns the one into the other.
       or exists (
           select from usage_period p
           join usage_total t on t.period = p.id
           where p.user_id = v_period.user_id and p.id <> p_period and t.feature = p_feature
             and not t.settled and t.total > t.claimed
       )
       or exists (
           select from usage_delivery d
           where d.period = p_period and d.feature = p_feature and d.sent_at > now() - p_quiet
       ) then
        return 'waiting';
    end if;

    if v_total.claimed > v_total.total then
        update usage_total set
            claimed = claimed - lower_refused(p_period, p_feature, v_total.claimed - v_total.total)
        where period = p_period and feature = p_feature
        returning * into v_total;
    end if;
    v_set := replacement_of(v_total);
    if p_reason = 'correction'
       and (v_total.claimed <= v_total.total or v_set.value = v_set.told) then
        update usage_total set held_until = null
        where period = p_period and feature = p_feature;
        return 'even';
    end if;
    update usage_total set
        claimed = claimed + v_set.value - v_set.told, seq = seq + 1, held_until = 'infinity'
    where period = p_period and feature = p_feature
    returning * into v_total;
    insert into usage_delivery (period, feature, seq, user_id, kind, quantity, event_id, body)
    values (
        p_period, p_feature, v_total.seq, v_period.user_id, 'set', v_set.value - v_set.told,
        delivery_name(p_period, v_period.user_id, p_feature, v_total.seq),
        json_build_object(
            'customerId', v_period.user_id, 'featureCode', p_feature,
            'value', v_set.value, 'reason', p_reason
        )::text
    );
    return 'begun';
end
$$;

-- Takes back a replacement that had no effect; claiming goes on.
create or replace function undo_set(p_period bigint, p_feature text, p_seq integer, p_reason text)
returns void
language plpgsql as $$
declare
    v_quantity numeric;
begin
    delete from usage_delivery
    where period = p_period and feature = p_feature and seq = p_seq and kind = 'set'
      and state <> 'sent'
    returning quantity into v_quantity;
    if found then
        update usage_total set claimed = claimed - v_quantity, held_until = null
        where period = p_period and feature = p_feature;
        update usage_drift set repair = 'refused', reason = p_reason
        where period = p_period and feature = p_feature and repair = 'sent';
    end if;
end
$$;

-- Gives up a replacement whose period is over: Commet would replace the total of the running one. One
-- that Commet certainly has not seen is taken back; one that it may have seen is for a human, because
-- Commet no longer tells the total of that period. Answers the reason, null where somebody else is
-- sending it or was faster. Changes a total: one per statement, as `undo_set`.
create or replace function end_set(p_period bigint, p_feature text, p_seq integer) returns text
language plpgsql as $$
declare
    v_tried_at timestamptz;
begin
    select d.uncertain_since into v_tried_at
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.seq = p_seq
      and d.kind = 'set' and d.state = 'pending' and d.due_at <= now()
    for update skip locked;
    if not found then
        return null;
    end if;
    if v_tried_at is null then
        perform undo_set(p_period, p_feature, p_seq, 'period_over');
        return 'period_over';
    end if;
    update usage_delivery set state = 'parked', reason = 'unconfirmed', uncertain_since = null
    where period = p_period and feature = p_feature and seq = p_seq;
    return 'unconfirmed';
end
$$;

-- Whether a delivery is one of those to be sent again. No look-up in it, so that it is inlined.
create or replace function redrivable(
    d usage_delivery, p_user text, p_event text, p_reason text
) returns boolean
language sql stable as $$
    select d.state = 'parked' and d.kind = 'event' and d.resolved_at is null
       and d.user_id = coalesce(p_user, d.user_id)
       and case
           when p_event is not null then d.event_id = p_event
           when p_reason is not null then d.reason = p_reason
           else d.reason not in ('unconfirmed', 'lost_to_cancellation')
       end
$$;

-- Parked deliveries are sent again under another key, because the old one would replay the refusal;
-- how many. What may have been counted, and what belongs to a subscription that is over, only where
-- it is named. Users whose total of that feature is being replaced, in whichever period, are left
-- alone: both this and begin_set lock the user, so one sees what the other has done.
create or replace function redrive_deliveries(
    p_user text, p_event text, p_reason text, p_limit integer
) returns bigint
language plpgsql as $$
declare
    v_users text[];
    v_driven bigint;
begin
    select array_agg(distinct n.user_id) into v_users
    from (
        select d.user_id from usage_delivery d
        where redrivable(d, p_user, p_event, p_reason)
        limit p_limit
    ) as n;
    perform from users where id = any (v_users) order by id for no key update;

    with parked as materialized (
        select n.period, n.feature, n.seq
        from usage_delivery n
        where redrivable(n, p_user, p_event, p_reason) and n.user_id = any (v_users)
          and not exists (
              select from usage_total t
              join usage_period p on p.id = t.period
              where p.user_id = n.user_id and t.feature = n.feature and t.held_until > now()
          )
        limit p_limit
        for update of n skip locked
    )
    update usage_delivery d set
        state = 'pending', generation = d.generation + 1, reason = null, due_at = now(),
        attempts = 0, uncertain_since = null, compare_at = null, amount = null, currency = null
    from parked
    where d.period = parked.period and d.feature = parked.feature and d.seq = parked.seq;
    get diagnostics v_driven = row_count;
    return v_driven;
end
$$;

-- What Commet counts a delivery once by: at most 200 characters, and it travels in a header too, so
-- ids with anything but printable ASCII are hashed. Stable, as what it calls is, or it would not be
-- inlined: that, or a regular expression in it, costs a claim more than everything else.
create or replace function delivery_name(
    p_period bigint, p_user text, p_feature text, p_seq integer
) returns text
language sql stable as $$
    select case
        when octet_length(p_user) + octet_length(p_feature) <= 150
             and octet_length(p_user) = length(p_user) and octet_length(p_feature) = length(p_feature)
             and octet_length(to_json(p_user)::text) = octet_length(p_user) + 2
             and octet_length(to_json(p_feature)::text) = octet_length(p_feature) + 2
             and strpos(p_user, chr(127)) = 0 and strpos(p_feature, chr(127)) = 0
            then p_period || ':' || p_user || ':' || p_feature || ':' || p_seq
        else p_period || ':' || md5(p_user || ':' || p_feature) || ':' || p_seq
    end
$$;

-- Growth that can no longer shrink away: a period that is over and has claimed more than it counted.
-- What Commet refused of it, newest first, need not be sent any more: a refused delivery is lowered,
-- and done with where nothing of it is left. The rest Commet was told and takes no correction of, so
-- it is parked as a credit a human has to give. Answers how many totals were looked at.
create or replace function credit_closed_periods(p_limit integer) returns bigint
language plpgsql as $$
declare
    v_seen bigint := 0;
    v_refused numeric;
    v_excess numeric;
    r record;
begin
    for r in
        select t.period, t.feature, t.total, t.claimed, t.seq + 1 as seq, p.user_id,
               w.included, w.unit_price, w.currency, t.total + t.carried as billed,
               is_billed_elsewhere(t.period, t.feature) as elsewhere
        from usage_total t
        join usage_period p on p.id = t.period
        join usage_terms w on w.period = t.period and w.feature = t.feature
        where not t.settled and t.total < t.claimed and p.closed_at is not null
          and (t.held_until is null or t.held_until <= now())
        limit p_limit
        for update of t skip locked
    loop
        v_seen := v_seen + 1;
        v_refused := lower_refused(r.period, r.feature, r.claimed - r.total);
        v_excess := greatest(r.claimed - r.total - v_refused, 0);
        update usage_total set
            claimed = claimed - v_refused - v_excess,
            seq = case when v_excess > 0 then r.seq else seq end
        where period = r.period and feature = r.feature;
        if v_excess > 0 then
            insert into usage_delivery (
                period, feature, seq, user_id, kind, quantity, event_id, body, state, reason,
                excess, amount, currency
            )
            values (
                r.period, r.feature, r.seq, r.user_id, 'credit', -v_excess,
                delivery_name(r.period, r.user_id, r.feature, r.seq), '', 'parked', 'needs_credit',
                v_excess,
                case when not r.elsewhere
                     then overage_value(r.billed + v_excess, r.included, r.unit_price)
                          - overage_value(r.billed, r.included, r.unit_price) end,
                r.currency
            );
        end if;
    end loop;
    return v_seen;
end
$$;

-- Whether Commet booked, or may have booked, a part of a total in another period. On which terms that
-- part was billed, if at all, the terms of this one do not tell.
create or replace function is_billed_elsewhere(p_period bigint, p_feature text) returns boolean
language sql stable as $$
    select exists (
        select from usage_delivery d
        where d.period = p_period and d.feature = p_feature and d.state = 'sent'
          and d.billed_period is distinct from d.period
    )
$$;

-- What of a total Commet has certainly refused and nobody has dealt with, and so never billed.
create or replace function refused_of(p_period bigint, p_feature text) returns numeric
language sql stable as $$
    select coalesce(sum(d.quantity), 0)
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.state = 'parked'
      and d.kind = 'event' and d.reason <> 'unconfirmed' and d.resolved_at is null
$$;

-- Takes so much off the refused deliveries of a total, the newest first; how much it was. Not less
-- than asked for where there is enough: what a double cannot carry of the rest becomes growth again.
-- A body changes in this one case: Commet refused it, so it has kept none of it.
create or replace function lower_refused(p_period bigint, p_feature text, p_by numeric)
returns numeric
language sql as $$
    with refused as (
        select d.seq, d.quantity,
               sum(d.quantity) over (order by d.seq desc) - d.quantity as before
        from usage_delivery d
        where d.period = p_period and d.feature = p_feature and d.state = 'parked'
          and d.kind = 'event' and d.reason <> 'unconfirmed' and d.resolved_at is null
    ),
    lowered as (
        select r.seq, r.quantity, case when fits_double(l.rest) then l.rest else trunc(l.rest) end as rest
        from refused r
        cross join lateral (
            select greatest(r.quantity - (p_by - r.before), 0) as rest
        ) as l
        where r.before < p_by
    ),
    done as (
        update usage_delivery d set
            quantity = l.rest,
            body = (d.body::jsonb || jsonb_build_object('value', trim_scale(l.rest)))::text,
            -- Its worth is reckoned anew.
            reason = case d.reason when 'lost_to_cancellation' then 'no_active_subscription'
                                   else d.reason end,
            amount = null, currency = null,
            resolved_at = case when l.rest = 0 then now() end,
            note = 'lowered by a correction'
        from lowered l
        where d.period = p_period and d.feature = p_feature and d.seq = l.seq
          and d.state = 'parked' and d.resolved_at is null
        returning l.quantity - l.rest as taken
    )
    select coalesce(sum(taken), 0) from done
$$;

-- A difference that stood when its period ended cannot be repaired: a human has to see to the
-- money. Our own books are right, so its quantity in them is nothing.
create or replace function close_drift(p_limit integer) returns bigint
language sql as $$
    with over as (
        select f.period, f.feature, f.user_id, f.ours, f.theirs, t.seq + 1 as seq
        from usage_drift f
        join usage_period p on p.id = f.period
        join usage_total t on t.period = f.period and t.feature = f.feature
        where p.closed_at is not null and t.settled
          and not exists (
              select from usage_delivery d
              where d.user_id = f.user_id and d.feature = f.feature and d.period = f.period
                and (d.state = 'pending' or d.compare_at is not null)
          )
        limit p_limit
        for update of f, t skip locked
    ),
    numbered as (
        update usage_total t set seq = o.seq
        from over o
        where t.period = o.period and t.feature = o.feature
    ),
    forgotten as (
        delete from usage_drift f using over o
        where f.period = o.period and f.feature = o.feature
    ),
    told as (
        insert into usage_delivery (
            period, feature, seq, user_id, kind, quantity, event_id, body, state, reason,
            excess, amount, currency
        )
        select o.period, o.feature, o.seq, o.user_id, 'credit', 0,
               delivery_name(o.period, o.user_id, o.feature, o.seq), '', 'parked',
               case when o.theirs > o.ours then 'needs_credit' else 'not_billed' end,
               o.theirs - o.ours,
               overage_value(o.theirs, w.included, w.unit_price)
               - overage_value(o.ours, w.included, w.unit_price),
               w.currency
        from over o
        join usage_terms w on w.period = o.period and w.feature = o.feature
        returning 1
    )
    select count(*) from told
$$;

-- What is left unsent of a subscription that has ended is lost, and what it was worth is told:
-- the part beyond the included, in the order it was counted. So many periods at a time; answers how
-- many deliveries it was.
drop function if exists mark_lost();
create or replace function mark_lost(p_limit integer) returns bigint
language sql as $$
    with ended as materialized (
        select distinct d.period
        from usage_delivery d
        join usage_period p on p.id = d.period
        join subscriptions s on s.id = p.subscription_id
        where d.state = 'parked' and d.reason = 'no_active_subscription' and d.resolved_at is null
          and s.status = 'canceled'
        limit p_limit
    ),
    counted as materialized (
        select d.period, d.feature, sum(d.quantity) as quantity
        from usage_delivery d
        where d.period in (select e.period from ended e)
          and (d.state = 'sent' and d.billed_period = d.period
               or d.reason = 'lost_to_cancellation')
        group by d.period, d.feature
    ),
    refused as (
        select d.period, d.feature, d.seq, d.quantity,
               coalesce(c.quantity, 0)
               + sum(d.quantity) over (partition by d.period, d.feature order by d.seq) as upto
        from usage_delivery d
        left join counted c on c.period = d.period and c.feature = d.feature
        where d.period in (select e.period from ended e)
          and d.state = 'parked' and d.reason = 'no_active_subscription' and d.resolved_at is null
    ),
    lost as (
        update usage_delivery d set
            reason = 'lost_to_cancellation',
            amount = overage_value(w.carried + r.upto, w.included, w.unit_price)
                     - overage_value(w.carried + r.upto - r.quantity, w.included, w.unit_price),
            currency = w.currency
        from refused r
        join usage_terms w on w.period = r.period and w.feature = r.feature
        where d.period = r.period and d.feature = r.feature and d.seq = r.seq
        returning 1
    )
    select count(*) from lost
$$;
