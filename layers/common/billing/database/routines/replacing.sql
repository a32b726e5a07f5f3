-- Replacing Commet's total of an open period by ours (PUT /usage).

-- Returns `sent`, the quantity of our deliveries that Commet booked in this period, and
-- `replacement`, the number to PUT in its place. Commet takes whole units only. Parked deliveries
-- are not part of `replacement`, because a redrive adds them later.
create or replace function replacement_of(
    p_period bigint, p_feature text, p_total numeric, out sent numeric, out replacement numeric
)
language plpgsql stable as $$
begin
    select d.booked + m.moved_in,
           greatest(floor(p_total - d.parked - d.moved_out + m.moved_in), 0)
    into sent, replacement
    from (
        select coalesce(sum(n.quantity) filter (
                   where n.state = 'sent' and n.billed_period = n.period), 0) as booked,
               -- Counted in this period, but booked by Commet in another.
               coalesce(sum(n.quantity) filter (
                   where n.state = 'sent' and n.billed_period <> n.period), 0) as moved_out,
               coalesce(sum(n.quantity) filter (where n.state = 'parked'), 0) as parked
        from usage_delivery n
        where n.period = p_period and n.feature = p_feature
    ) as d
    cross join (
        -- Counted in another period, but booked by Commet in this one.
        select coalesce(sum(n.quantity), 0) as moved_in
        from usage_delivery n
        where n.billed_period = p_period and n.feature = p_feature
          and n.billed_period <> n.period
    ) as m;
end
$$;

-- Returns whether replacing a total that shrank would change anything. It would if there is a
-- refused delivery to lower, or if Commet's total is above p_total. If more than p_total was
-- claimed for another reason, the excess is in doubt or was booked in another period, and a
-- replacement does not change that.
create or replace function can_be_replaced(p_period bigint, p_feature text, p_total numeric)
returns boolean
language sql stable as $$
    select refused_of(p_period, p_feature) > 0 or r.replacement <> r.sent
    from replacement_of(p_period, p_feature, p_total) as r
$$;

-- Returns whether a total that corrections have lowered is quiet, so that Commet's total may be
-- lowered. The total is quiet if nothing was booked in it for p_quiet: then a series of corrections
-- causes one replacement, and a total that usage soon raises again causes none. A total that never
-- becomes quiet in this way counts as quiet once it was not corrected for p_closing.
create or replace function is_quiet(
    p_period bigint, p_feature text, p_now timestamptz, p_quiet interval, p_closing interval
) returns boolean
language sql stable as $$
    select not exists (
        select from usage_event e
        where e.period = p_period and e.feature = p_feature and e.booked_at > p_now - p_quiet
    ) or not exists (
        select from usage_event e
        where e.period = p_period and e.feature = p_feature and e.booked_at > p_now - p_closing
          and e.kind = 'correction'
    )
$$;

-- Begins to replace Commet's total of an open period by ours. Returns:
--   begun     a replacement is pending; nothing of the user and feature is claimed until Commet has
--             answered it
--   waiting   a delivery of the user and feature is in flight, growth of another period is left to
--             claim, or a delivery was sent within p_quiet. Nothing is claimed for 90 seconds, so
--             that a later call can begin; not longer, because the period may end soon
--   over      the period has ended, or ends within p_margin
--   even      the replacement would change nothing
--   in_doubt  a delivery sent since the period began is not placed, so our number may be wrong
-- If corrections have lowered the total below what was claimed, the excess is first taken off the
-- refused deliveries, because Commet has none of them. A fraction that PUT cannot represent becomes
-- growth again and is sent as usage.
-- p_reason is sent to Commet. 'correction' is only for a total that shrank. 'drift' is for a
-- repair, which may send the same quantity that we sent before, because Commet's number differs.
-- Call this once per statement: it locks the user and then a total until the statement ends.
create or replace function begin_replacement(
    p_period bigint, p_feature text, p_now timestamptz, p_quiet interval, p_margin interval,
    p_reason text
) returns text
language plpgsql as $$
declare
    v_period record;
    v_total record;
    v_at_commet record;
    v_seq integer;
begin
    perform from users u join usage_period p on p.user_id = u.id where p.id = p_period
    for no key update of u;
    select p.user_id, p.starts_at, p.ends_at, p.closed_at into v_period
    from usage_period p
    where p.id = p_period;
    if v_period.closed_at is not null or p_now >= v_period.ends_at - p_margin then
        return 'over';
    end if;
    if exists (
        select from usage_delivery d
        where d.user_id = v_period.user_id and d.feature = p_feature
          and d.state = 'sent' and d.billed_period is null and d.compare_at is null
          and d.kind <> 'replacement' and d.answered_at > v_period.starts_at - interval '1 minute'
    ) then
        return 'in_doubt';
    end if;
    -- This is an update and not only a lock, so that a concurrent claim reads the row again and
    -- sees claims_paused_until.
    insert into usage_total as t (period, feature, total, claims_paused_until)
    values (p_period, p_feature, 0, now() + interval '90 seconds')
    on conflict (period, feature) do update set claims_paused_until = excluded.claims_paused_until
    where t.claims_paused_until is distinct from 'infinity'
    returning t.total, t.claimed into v_total;
    if not found
       or exists (
           select from usage_delivery d
           where d.user_id = v_period.user_id and d.feature = p_feature
             and (d.state = 'pending' or d.compare_at is not null)
       )
       -- Growth of another period: Commet would book it in this one. One statement checks growth
       -- and pending deliveries, because a claim turns growth into a delivery, and two statements
       -- could miss both.
       or exists (
           select from usage_period p
           join usage_total t on t.period = p.id
           where p.user_id = v_period.user_id and p.id <> p_period and t.feature = p_feature
             and not t.fully_claimed and t.total > t.claimed + t.withheld
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
        returning total, claimed into v_total;
        perform price_lost_usage(v_period.user_id, p_now);
    end if;
    select r.sent, r.replacement into v_at_commet
    from replacement_of(p_period, p_feature, v_total.total) as r;
    if p_reason = 'correction'
       and (v_total.claimed <= v_total.total or v_at_commet.replacement = v_at_commet.sent) then
        update usage_total set claims_paused_until = null
        where period = p_period and feature = p_feature;
        return 'even';
    end if;
    update usage_total set
        claimed = claimed + v_at_commet.replacement - v_at_commet.sent,
        seq = seq + 1,
        claims_paused_until = 'infinity'
    where period = p_period and feature = p_feature
    returning seq into v_seq;
    insert into usage_delivery (period, feature, seq, user_id, kind, quantity, event_id, body)
    values (
        p_period, p_feature, v_seq, v_period.user_id, 'replacement',
        v_at_commet.replacement - v_at_commet.sent,
        delivery_name(p_period, v_period.user_id, p_feature, v_seq),
        json_build_object(
            'customerId', v_period.user_id, 'featureCode', p_feature,
            'value', v_at_commet.replacement, 'reason', p_reason
        )::text
    );
    return 'begun';
end
$$;

-- Deletes a replacement that had no effect at Commet, so that growth is claimed again. The next
-- replacement begins after an hour at the earliest, unless the period ends soon. If the replacement
-- was a repair, the drift remains, and p_reason becomes the reason why the repair was refused.
create or replace function undo_replacement(
    p_period bigint, p_feature text, p_seq integer, p_reason text
)
returns void
language plpgsql as $$
declare
    v_quantity numeric;
begin
    delete from usage_delivery
    where period = p_period and feature = p_feature and seq = p_seq and kind = 'replacement'
      and state <> 'sent'
    returning quantity into v_quantity;
    if found then
        update usage_total set
            claimed = claimed - v_quantity, claims_paused_until = null,
            replace_after = now() + interval '1 hour'
        where period = p_period and feature = p_feature;
        update usage_drift set repair = 'refused', reason = p_reason
        where period = p_period and feature = p_feature and repair = 'sent';
    end if;
end
$$;

-- Gives up a replacement whose period is over, because PUT would replace the total of the period
-- that runs now. Returns 'period_over' if Commet has certainly not taken the replacement, which is
-- then deleted. Returns 'unconfirmed' if Commet may have taken it: it is then parked for a person,
-- because Commet no longer reports the total of that period. Returns null if another run is sending
-- it or has ended it. Call this once per statement, like undo_replacement: both lock a total.
create or replace function end_replacement(p_period bigint, p_feature text, p_seq integer)
returns text
language plpgsql as $$
declare
    v_tried_at timestamptz;
begin
    select d.uncertain_since into v_tried_at
    from usage_delivery d
    where d.period = p_period and d.feature = p_feature and d.seq = p_seq
      and d.kind = 'replacement' and d.state = 'pending' and d.due_at <= now()
    for update skip locked;
    if not found then
        return null;
    end if;
    if v_tried_at is null then
        perform undo_replacement(p_period, p_feature, p_seq, 'period_over');
        return 'period_over';
    end if;
    update usage_delivery set state = 'parked', reason = 'unconfirmed', uncertain_since = null
    where period = p_period and feature = p_feature and seq = p_seq;
    return 'unconfirmed';
end
$$;
