-- Reserving an amount before the work, and booking what the work really took. The rules of locking
-- are at the top of tables/0004_usage.sql.

-- Reserves p_quantity, or says why not. `verdict` is 'reserved', 'duplicate', 'conflict',
-- 'already_counted', 'reservation_released' or the code of a refusal. `reservation` is the one with
-- this key, null if there is none. A refusal leaves no trace.
-- A reservation that has expired is held anew if it still fits. It keeps its first id, so whoever
-- knows that id may still confirm it.
create or replace function reserve_usage(
    p_id text, p_user text, p_feature text, p_key text, p_quantity numeric, p_fingerprint bytea,
    p_properties text, p_expires_at timestamptz, p_now timestamptz, p_statuses text[],
    out verdict text, out reservation usage_reservation
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
begin
    v_standing := lock_standing(p_user, p_feature, p_now, p_statuses);
    reservation := (
        select h from usage_reservation h
        where h.user_id = p_user and h.idempotency_key = p_key
    );
    if reservation.fingerprint <> p_fingerprint then
        verdict := 'conflict';
        return;
    end if;
    select fingerprint, feature, kind into v_counted from usage_event
    where user_id = p_user and idempotency_key = p_key;
    -- Looked up after the ledger: pruning may replace the entry by its key meanwhile.
    v_pruned := pruned_fingerprint(p_user, p_key);
    -- The work was reported directly after the reservation had ended, with whatever quantity.
    v_was_its_work := reservation.id is not null and v_counted.feature = p_feature
        and v_counted.kind <> 'correction';
    verdict := case
        when reservation.state = 'confirmed' then 'duplicate'
        when coalesce(v_counted.fingerprint, v_pruned) = p_fingerprint then 'already_counted'
        when v_was_its_work then 'already_counted'
        when coalesce(v_counted.fingerprint, v_pruned) is not null then 'conflict'
        when reservation.state = 'held' and reservation.expires_at > p_now then 'duplicate'
        when reservation.state = 'released' then 'reservation_released'
        when v_standing.code is not null then v_standing.code
        when v_standing.used + v_standing.held + p_quantity > v_standing.cap then 'limit_reached'
        when not fits_double(v_standing.used + p_quantity) then 'total_too_large'
        else 'reserved'
    end;
    if verdict = 'reserved' then
        -- If the reservation had expired, its row is still there, unless `forget` has just deleted
        -- it.
        insert into usage_reservation (
            id, user_id, idempotency_key, fingerprint, feature, quantity, properties,
            created_at, expires_at
        )
        values (
            p_id, p_user, p_key, p_fingerprint, p_feature, p_quantity, p_properties::jsonb,
            p_now, p_expires_at
        )
        on conflict (idempotency_key, user_id) do update set
            state = 'held', expires_at = excluded.expires_at;
        reservation := (
            select h from usage_reservation h
            where h.user_id = p_user and h.idempotency_key = p_key
        );
    end if;
end
$$;

-- Books p_quantity, which the work of a reservation took, and ends the reservation. `verdict` is
-- 'confirmed', 'duplicate', 'conflict', 'reservation_not_found', 'reservation_released',
-- 'reservation_expired' or the code of a refusal, which leaves the reservation as it was.
-- p_fingerprint is that of an event which reports the same usage directly. Such an event and the
-- confirmation are the same work and count once.
create or replace function confirm_reservation(
    p_id text, p_user text, p_quantity numeric, p_fingerprint bytea, p_now timestamptz,
    p_statuses text[], out verdict text, out reservation usage_reservation
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    v_standing record;
    v_booked bytea;
    v_is_held boolean;
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
    where user_id = p_user and idempotency_key = reservation.idempotency_key;
    v_standing := lock_standing(p_user, reservation.feature, p_now, p_statuses);
    v_is_held := reservation.state = 'held' and reservation.expires_at > p_now;
    verdict := case
        when reservation.state = 'confirmed' and reservation.booked = p_quantity then 'duplicate'
        when reservation.state = 'confirmed' then 'conflict'
        when reservation.state = 'released' then 'reservation_released'
        when v_booked = p_fingerprint then 'duplicate'  -- reported directly meanwhile
        when v_booked is not null then 'conflict'
        when v_standing.code is not null then v_standing.code
        -- The total never passes the limit. Up to its own quantity a held reservation fits even if
        -- other reservations fill the limit. Beyond that, or after it expired, the others come
        -- first.
        when v_is_held and p_quantity <= reservation.quantity then
            case when v_standing.used + p_quantity > v_standing.cap then 'limit_reached' end
        when v_is_held then
            case when v_standing.used + v_standing.held - reservation.quantity + p_quantity
                      > v_standing.cap
                 then 'limit_reached' end
        when v_standing.used + v_standing.held + p_quantity > v_standing.cap
            then 'reservation_expired'
    end;
    if verdict is null and not fits_double(v_standing.used + p_quantity) then
        verdict := 'total_too_large';
    end if;
    if verdict is null then
        verdict := 'confirmed';
        perform book_usage(
            p_user, reservation.idempotency_key, p_fingerprint, reservation.feature, p_quantity,
            p_now, v_standing.period, 'confirm', p_now,
            p_properties => reservation.properties
        );
    end if;
    if verdict = 'confirmed' or (verdict = 'duplicate' and reservation.state <> 'confirmed') then
        update usage_reservation set
            state = 'confirmed', booked = p_quantity, concluded_at = p_now
        where id = p_id;
        reservation := (select h from usage_reservation h where h.id = p_id);
    end if;
end
$$;

-- Ends a reservation without booking anything. `verdict` is 'released', 'reservation_not_found' or
-- 'reservation_confirmed'. Releasing again gives the same answer. An expired reservation becomes
-- released too.
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
