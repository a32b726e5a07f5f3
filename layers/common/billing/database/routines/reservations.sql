-- Reserving a quantity before the work, and booking the quantity that the work used. The rules of
-- locking are at the top of tables/0004_usage.sql.

-- Reserves p_quantity, or returns why not. `verdict` is 'reserved', 'duplicate', 'conflict',
-- 'already_counted', 'reservation_released' or the code of a refusal. `reservation` is the
-- reservation with this key, null if there is none. A refusal changes nothing.
-- A reservation that has expired becomes held again if it still fits. It keeps its first id, so a
-- caller that knows this id can still confirm it.
create or replace function reserve_usage(
    p_id text, p_user text, p_feature text, p_key text, p_quantity numeric, p_fingerprint bytea,
    p_properties text, p_expires_at timestamptz, p_now timestamptz, p_statuses text[],
    p_spending jsonb, out verdict text, out reservation usage_reservation
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    v_standing record;
    v_counted record;
    v_pruned bytea;
    v_was_its_work boolean;
    v_taken numeric;  -- used, carried and held
begin
    v_standing := lock_standing(p_user, p_feature, p_now, p_statuses);
    v_taken := v_standing.used + v_standing.carried + v_standing.held;
    reservation := (
        select h from usage_reservation h
        where h.user_id = p_user and h.idempotency_key = p_key and h.feature = p_feature
    );
    if reservation.fingerprint <> p_fingerprint then
        verdict := 'conflict';
        return;
    end if;
    select fingerprint, kind into v_counted from usage_event
    where user_id = p_user and idempotency_key = p_key and feature = p_feature;
    -- The pruned key is read after the ledger, because pruning may replace the entry by its key
    -- between the two reads.
    v_pruned := pruned_fingerprint(p_user, p_feature, p_key);
    -- True if the work was reported directly after the reservation had ended, with any quantity.
    v_was_its_work := reservation.id is not null and v_counted.kind <> 'correction';
    verdict := case
        when reservation.state = 'confirmed' then 'duplicate'
        when coalesce(v_counted.fingerprint, v_pruned) = p_fingerprint then 'already_counted'
        when v_was_its_work then 'already_counted'
        when coalesce(v_counted.fingerprint, v_pruned) is not null then 'conflict'
        when reservation.state = 'held' and reservation.expires_at > p_now then 'duplicate'
        when reservation.state = 'released' then 'reservation_released'
        when v_standing.code is not null then v_standing.code
        when v_standing.used + v_standing.held + p_quantity > v_standing.cap
            then v_standing.cap_code
        -- The held quantity counts, because each held reservation is expected to be confirmed.
        when is_too_large(v_standing.used + v_standing.held + p_quantity) then 'total_too_large'
        else coalesce(
            overage_refusal(
                p_user, p_feature, v_standing.period, v_taken, v_taken + p_quantity, p_now,
                p_spending
            ),
            'reserved'
        )
    end;
    if verdict = 'reserved' then
        -- The row of an expired reservation usually exists, unless `forget` has just deleted it.
        insert into usage_reservation (
            id, user_id, idempotency_key, fingerprint, feature, quantity, properties,
            created_at, expires_at
        )
        values (
            p_id, p_user, p_key, p_fingerprint, p_feature, p_quantity, p_properties::jsonb,
            p_now, p_expires_at
        )
        on conflict (idempotency_key, user_id, feature) do update set
            state = 'held', expires_at = excluded.expires_at;
        reservation := (
            select h from usage_reservation h
            where h.user_id = p_user and h.idempotency_key = p_key and h.feature = p_feature
        );
    end if;
end
$$;

-- Returns the period that ran when a reservation was made at p_at: the last period that had begun
-- by p_at. If there is none, because Commet reported the period's start late, returns the user's
-- newest period.
create or replace function period_of_hold(p_user text, p_at timestamptz) returns bigint
language sql stable as $$
    select id from usage_period
    where user_id = p_user
    order by (starts_at <= p_at) desc,
             case when starts_at <= p_at then starts_at end desc, id desc
    limit 1
$$;

-- Books p_quantity, which the work of a reservation used, and ends the reservation. `verdict` is
-- 'confirmed', 'duplicate', 'conflict', 'reservation_not_found', 'reservation_released',
-- 'reservation_expired' or the code of a refusal. A refusal does not change the reservation.
-- p_fingerprint is the fingerprint of an event that reports the same usage directly. Such an event
-- and the confirmation are the same work and count once.
-- A held reservation is a promise: a quantity up to the reserved one is booked, whatever has
-- changed since. If access has ended, it is booked in the period that ended. If the user lost the
-- feature, or has a plan that takes no overage of it, it is booked in the period in which the
-- reservation was made. If p_quantity is above the
-- reserved quantity, the limits apply again.
create or replace function confirm_reservation(
    p_id text, p_user text, p_quantity numeric, p_fingerprint bytea, p_now timestamptz,
    p_statuses text[], p_spending jsonb, out verdict text, out reservation usage_reservation
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    v_standing record;
    v_booked bytea;
    v_is_held boolean;
    v_period bigint;
    v_taken numeric;  -- used, carried and held, the reservation itself included
    v_after numeric;
begin
    perform from users where id = p_user for no key update;
    reservation := (
        select h from usage_reservation h where h.id = p_id and h.user_id = p_user
    );
    if reservation.id is null then
        verdict := 'reservation_not_found';
        return;
    end if;
    select fingerprint into v_booked from usage_event
    where user_id = p_user and idempotency_key = reservation.idempotency_key
      and feature = reservation.feature;
    v_standing := lock_standing(p_user, reservation.feature, p_now, p_statuses);
    v_is_held := reservation.state = 'held' and reservation.expires_at > p_now;
    v_period := v_standing.period;
    v_taken := v_standing.used + v_standing.carried + v_standing.held;
    v_after := v_taken + p_quantity - case when v_is_held then reservation.quantity else 0 end;
    verdict := case
        when reservation.state = 'confirmed' and reservation.booked = p_quantity then 'duplicate'
        when reservation.state = 'confirmed' then 'conflict'
        when reservation.state = 'released' then 'reservation_released'
        when v_booked = p_fingerprint then 'duplicate'  -- reported directly meanwhile
        when v_booked is not null then 'conflict'
        when v_is_held and p_quantity <= reservation.quantity then null
        when v_standing.code is not null then v_standing.code
        when v_after - v_standing.carried > v_standing.cap then
            case when v_is_held then v_standing.cap_code else 'reservation_expired' end
        else overage_refusal(
            p_user, reservation.feature, v_period, v_taken, v_after, p_now, p_spending
        )
    end;
    if verdict is null and is_too_large(v_standing.used + p_quantity) then
        verdict := 'total_too_large';
    end if;
    if verdict is null and v_standing.code in ('subscription_required', 'access_unconfirmed') then
        v_period := coalesce(
            (select a.period from last_access(p_user, p_statuses, 'infinity') as a),
            period_of_hold(p_user, reservation.created_at)
        );
    elsif verdict is null and v_standing.code is not null then
        v_period := period_of_hold(p_user, reservation.created_at);
    elsif verdict is null and v_is_held and p_quantity <= reservation.quantity then
        v_period := coalesce(
            left_period(p_user, reservation.feature, v_period, reservation.created_at), v_period
        );
    end if;
    if verdict is null then
        verdict := 'confirmed';
        perform book_usage(
            p_user, reservation.idempotency_key, p_fingerprint, reservation.feature, p_quantity,
            p_now, v_period, 'confirm', p_now, p_properties => reservation.properties
        );
    end if;
    if verdict = 'confirmed' or (verdict = 'duplicate' and reservation.state <> 'confirmed') then
        update usage_reservation set
            state = 'confirmed', booked = p_quantity, concluded_at = p_now
        where id = p_id;
        reservation := (select h from usage_reservation h where h.id = p_id);
        perform note_overage_of(p_user, v_period, p_now, p_spending);
    end if;
end
$$;

-- Ends a reservation without booking anything. `verdict` is 'released', 'reservation_not_found' or
-- 'reservation_confirmed'. Releasing a reservation again gives the same verdict. An expired
-- reservation becomes released too.
create or replace function release_reservation(
    p_id text, p_user text, p_now timestamptz, out verdict text, out reservation usage_reservation
)
language plpgsql as $$
begin
    perform from users where id = p_user for no key update;
    update usage_reservation set state = 'released', concluded_at = p_now
    where id = p_id and user_id = p_user and state in ('held', 'expired');
    reservation := (
        select h from usage_reservation h where h.id = p_id and h.user_id = p_user
    );
    verdict := case
        when reservation.id is null then 'reservation_not_found'
        when reservation.state = 'confirmed' then 'reservation_confirmed'
        else 'released'
    end;
end
$$;
