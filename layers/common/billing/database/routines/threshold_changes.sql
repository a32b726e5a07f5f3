-- Changing a threshold that exists (tables/0013_thresholds.sql). Adding and removing one is in
-- thresholds.sql.

-- Gives a threshold another percentage or amount. p_user is the user who may change only an own
-- threshold; null: a threshold of the product or operator. `verdict` is 'changed', 'not_found', or
-- 'exists' if there is an equal threshold already. `kept` is the threshold with its new value. If
-- the threshold of one user is reached already, an event is emitted at once; for a threshold of all
-- users, the next run of `reconcile` emits the events.
-- The locks come in the order of remove_threshold: the user, the threshold, the row of `rounds`.
create or replace function change_threshold(
    p_id text, p_user text, p_percent integer, p_amount numeric, p_now timestamptz,
    p_spending jsonb, out verdict text, out kept threshold
)
language plpgsql as $$
declare
    v_of text;
begin
    verdict := 'not_found';
    select n.user_id into v_of from threshold n
    where n.id = p_id
      and case when p_user is null then n.set_by <> 'user'
               else n.set_by = 'user' and n.user_id = p_user end;
    if not found then
        return;
    end if;
    perform from users where id = v_of for no key update;
    perform from threshold where id = p_id for no key update;
    if not found then
        return;
    end if;
    if v_of is null then
        perform request_look();
    end if;
    if exists (
        select from threshold n
        join threshold o on o.user_id is not distinct from n.user_id and o.set_by = n.set_by
                        and o.measure = n.measure and o.feature is not distinct from n.feature
        where n.id = p_id and o.id <> p_id
          and o.percent is not distinct from p_percent and o.amount is not distinct from p_amount
    ) then
        verdict := 'exists';
        return;
    end if;
    update threshold set percent = p_percent, amount = p_amount where id = p_id;
    if v_of is not null then
        perform look_again(v_of, p_now, p_spending);
    end if;
    verdict := 'changed';
    kept := (select n from threshold n where n.id = p_id);
end
$$;
