-- Functions about the deliveries of one total. The routines that replace totals, close periods and
-- redrive deliveries call them; docs/usage-delivery.md says how these work together.

-- Returns the event id of a delivery. Commet counts each event id once. The id has at most 200
-- characters, and is sent in a header, as a part of the idempotency key. So user and feature are
-- hashed if they are long or contain anything but printable ASCII.
-- The function is declared stable, like the functions that it calls, because otherwise Postgres
-- would not inline it. A call that is not inlined, or a regular expression here, would cost more
-- than the rest of a claim.
create or replace function delivery_name(
    p_period bigint, p_user text, p_feature text, p_seq integer
) returns text
language sql stable as $$
    select case
        when octet_length(p_user) + octet_length(p_feature) <= 150
             and octet_length(p_user) = length(p_user)
             and octet_length(p_feature) = length(p_feature)
             and octet_length(to_json(p_user)::text) = octet_length(p_user) + 2
             and octet_length(to_json(p_feature)::text) = octet_length(p_feature) + 2
             and strpos(p_user, chr(127)) = 0 and strpos(p_feature, chr(127)) = 0
            then p_period || ':' || p_user || ':' || p_feature || ':' || p_seq
        else p_period || ':' || md5(p_user || ':' || p_feature) || ':' || p_seq
    end
$$;

-- Returns whether we do not know the period in which Commet booked some part of a total. The terms
-- of that part are then not known either.
create or replace function is_placement_unknown(p_period bigint, p_feature text) returns boolean
language sql stable as $$
    select exists (
        select from usage_delivery d
        where d.period = p_period and d.feature = p_feature and d.state = 'sent'
          and d.billed_period is null
    )
$$;

-- Returns whether a delivery of a total has no answer of Commet yet. The condition on the user lets
-- Postgres use the small index on unsent deliveries.
create or replace function is_unanswered(p_user text, p_period bigint, p_feature text)
returns boolean
language sql stable as $$
    select exists (
        select from usage_delivery d
        where d.user_id = p_user and d.feature = p_feature and d.period = p_period
          and d.state = 'pending'
    )
$$;

-- Makes p_part of a delivery a delivery of p_billed, the period in which Commet booked it. In p_billed
-- more is then claimed than counted. So Commet's total is lowered once the total is quiet, or a
-- credit is parked if the period is over. In p_period, usage that is no longer claimed is withheld.
-- The caller has locked the user.
create or replace function withhold_part(
    p_period bigint, p_feature text, p_seq integer, p_billed bigint, p_part numeric
) returns void
language plpgsql as $$
declare
    v_seq integer;
begin
    -- The earlier period first, because totals are locked in the order of their periods.
    update usage_total set
        claimed = claimed - p_part, withheld = greatest(total - claimed + p_part, 0),
        fully_claimed = false
    where period = p_period and feature = p_feature;
    insert into usage_total as t (period, feature, total, claimed, seq)
    values (p_billed, p_feature, 0, p_part, 1)
    on conflict (period, feature) do update set
        claimed = t.claimed + excluded.claimed, seq = t.seq + 1, fully_claimed = false
    returning t.seq into v_seq;
    insert into usage_delivery (
        period, feature, seq, user_id, quantity, event_id, generation, body, state, claimed_at,
        due_at, attempts, uncertain_since, sent_at, remote_id, billed_period, answered_at, doubted_at
    )
    select p_billed, d.feature, v_seq, d.user_id, p_part, d.event_id, d.generation, d.body, d.state,
           d.claimed_at, d.due_at, d.attempts, d.uncertain_since, d.sent_at, d.remote_id, p_billed,
           d.answered_at, d.doubted_at
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.seq = p_seq;
    delete from usage_delivery
    where period = p_period and feature = p_feature and seq = p_seq and quantity = p_part;
    update usage_delivery set quantity = quantity - p_part
    where period = p_period and feature = p_feature and seq = p_seq;
end
$$;

-- Withholds usage of a trial or free plan that Commet booked in the first paid period. This happens
-- if a delivery was sent before we heard that the user pays. The part of the delivery that occurred
-- before `paid_from` becomes a delivery of the paid period (withhold_part). Returns that part. The
-- caller has locked the user and placed the delivery.
create or replace function withhold_delivery(
    p_period bigint, p_feature text, p_seq integer, p_billed bigint
) returns numeric
language plpgsql as $$
declare
    v_paid_from timestamptz;
    v_paid numeric;
    v_part numeric;
begin
    v_paid_from := (
        select b.paid_from from usage_period b join usage_period p on p.id = b.free_period
        where b.id = p_billed and p.id = p_period and is_unbilled(p)
    );
    if v_paid_from is null then
        return 0;
    end if;
    -- What was used since the user pays, less what is already placed in the paid period.
    v_paid := (
        select coalesce(sum(e.quantity), 0) from usage_event e
        where e.period = p_period and e.feature = p_feature and e.occurred_at >= v_paid_from
    ) - coalesce((
        select t.carried from usage_total t where t.period = p_billed and t.feature = p_feature
    ), 0);
    v_part := (
        select d.quantity - least(d.quantity, greatest(v_paid, 0)) from usage_delivery d
        where d.period = p_period and d.feature = p_feature and d.seq = p_seq
    );
    if v_part > 0 then
        perform withhold_part(p_period, p_feature, p_seq, p_billed, v_part);
    end if;
    return v_part;
end
$$;

-- Withholds what a correction takes off usage since the user pays, if we counted that usage in the
-- trial or free period p_period, and Commet booked it in the paid period that followed. Returns that
-- quantity. p_quantity, below zero, is not booked yet. The caller has locked the user.
create or replace function withhold_corrected(
    p_period bigint, p_feature text, p_occurred timestamptz, p_quantity numeric
) returns numeric
language plpgsql as $$
declare
    v_billed record;
    v_left numeric;
    v_withheld numeric := 0;
    v_part numeric;
    d record;
begin
    select b.id, b.paid_from into v_billed
    from usage_period b join usage_period p on p.id = b.free_period
    where p.id = p_period and is_unbilled(p) and p_occurred >= b.paid_from
    order by b.id limit 1;
    if not found then
        return 0;
    end if;
    v_left := least(-p_quantity, (
        select coalesce(sum(n.quantity), 0) from usage_delivery n
        where n.period = p_period and n.feature = p_feature and n.billed_period = v_billed.id
    ) - (
        select coalesce(sum(e.quantity), 0) + p_quantity from usage_event e
        where e.period = p_period and e.feature = p_feature and e.occurred_at >= v_billed.paid_from
    ));
    for d in
        select n.seq, n.quantity from usage_delivery n
        where n.period = p_period and n.feature = p_feature and n.billed_period = v_billed.id
          and n.kind = 'event' and n.state = 'sent'
        order by n.seq desc
    loop
        v_part := least(d.quantity, v_left - v_withheld);
        exit when v_part <= 0;
        perform withhold_part(p_period, p_feature, d.seq, v_billed.id, v_part);
        v_withheld := v_withheld + v_part;
    end loop;
    update usage_total set carried = carried - v_withheld
    where period = v_billed.id and feature = p_feature and v_withheld > 0;
    return v_withheld;
end
$$;

-- Returns whether Commet may have booked some part of a trial or free period's total in the paid
-- period that followed. Comparing totals decides.
create or replace function may_be_billed(p usage_period, p_feature text) returns boolean
language sql stable as $$
    select is_unbilled(p) and exists (
        select from usage_delivery d
        where d.period = p.id and d.feature = p_feature and d.compare_at is not null
    )
$$;

-- Places a delivery that is in doubt in p_billed, the period in which Commet booked it. If another
-- period counted the delivery, adds its quantity to `carried` of p_billed. Prices the credits whose
-- worth depended on this placement.
create or replace function place_delivery(
    p_period bigint, p_feature text, p_seq integer, p_billed bigint
) returns void
language plpgsql as $$
declare
    v_quantity numeric;
    v_withheld numeric;
begin
    -- Lock the user first. So a run that parks a credit either sees that the delivery is placed, or
    -- has parked the credit before price_credits reads it below.
    perform from users u join usage_period p on p.user_id = u.id where p.id = p_period
    for no key update of u;
    update usage_delivery set
        state = 'sent', sent_at = coalesce(sent_at, now()), reason = null, compare_at = null,
        billed_period = p_billed, doubted_at = coalesce(doubted_at, now())
    where period = p_period and feature = p_feature and seq = p_seq and compare_at is not null
    returning quantity into v_quantity;
    if v_quantity is not null and p_billed <> p_period then
        v_withheld := withhold_delivery(p_period, p_feature, p_seq, p_billed);
        insert into usage_total as t (period, feature, total, carried)
        values (p_billed, p_feature, 0, v_quantity - v_withheld)
        on conflict (period, feature) do update set carried = t.carried + excluded.carried;
        -- What is withheld needs no credit, although a correction may have announced one.
        if v_withheld > 0 and not exists (
            select from usage_total t
            where t.period = p_period and t.feature = p_feature and t.total < t.claimed
        ) then
            perform note_credits(p_period, p_feature);
        end if;
    end if;
    perform price_credits(p_period, p_feature);
end
$$;

-- Returns how much of a total Commet has refused, and so has not billed. This is the sum of the
-- total's parked deliveries of kind 'event', without those that are `unconfirmed` (Commet may have
-- counted them) and those that a person has resolved.
create or replace function refused_of(p_period bigint, p_feature text) returns numeric
language sql stable as $$
    select coalesce(sum(d.quantity), 0)
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.state = 'parked'
      and d.kind = 'event' and d.reason <> 'unconfirmed' and d.resolved_at is null
$$;

-- Lowers the refused deliveries of a total by p_by, the newest first. Returns the quantity taken
-- off. It is below p_by if less was refused. It is above p_by if a double cannot represent the rest
-- of a delivery: then the fraction is taken off as well, and becomes growth again. A delivery whose
-- whole quantity is taken off is resolved.
-- Apart from erasure, this is the only routine that changes a delivery's body. That is safe,
-- because Commet refused the old body and kept nothing of it. The caller then prices the user's
-- debts again (price_lost_usage).
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
        select r.seq, r.quantity,
               case when fits_double(l.rest) then l.rest else trunc(l.rest) end as rest
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
            -- `mark_lost` will price the delivery again.
            reason = case d.reason when 'lost_to_cancellation' then 'no_active_subscription'
                                   else d.reason end,
            amount = null, currency = null, debt = null,
            resolved_at = case when l.rest = 0 then now() end,
            note = 'lowered by a correction'
        from lowered l
        where d.period = p_period and d.feature = p_feature and d.seq = l.seq
          and d.state = 'parked' and d.resolved_at is null
        returning l.quantity - l.rest as taken
    )
    select coalesce(sum(taken), 0) from done
$$;
