-- Pruning the ledger and merging the outbox, so that both stay small. A used idempotency key never
-- becomes free again
-- (docs/decisions/0014-how-the-ledger-stays-small.md).

-- Returns the value under which `usage_key` keeps the key of a pruned ledger entry: 48 bits of the
-- user's hash, so that one user's keys lie together, and 80 bits of the hash of user, feature and
-- key, so that in practice no two are equal.
create or replace function usage_key_of(p_user text, p_feature text, p_key text) returns uuid
language sql stable as $$
    select encode(
        substr(sha256(convert_to(p_user, 'UTF8')), 1, 6)
        || substr(
            sha256(convert_to(
                octet_length(p_user) || ':' || p_user || octet_length(p_feature) || ':'
                || p_feature || p_key, 'UTF8'
            )), 1, 10
        ),
        'hex'
    )::uuid
$$;

-- Returns the fingerprint of a pruned ledger entry; null if the key was never used, or its entry is
-- still in the ledger.
create or replace function pruned_fingerprint(p_user text, p_feature text, p_key text)
returns bytea
language sql stable as $$
    select uuid_send(fingerprint) from usage_key where key = usage_key_of(p_user, p_feature, p_key)
$$;

-- Prunes the ledger: replaces old entries by their keys in `usage_key`. Looks at the next p_limit
-- entries booked before p_before, in the order of booking, after the entry named by p_after_time,
-- p_after_user, p_after_key and p_after_feature. Prunes an entry only if its period closed before
-- p_before, and that period has nothing left to claim, to send or to decide. Returns how many
-- entries it looked at and how many it pruned, and names the last entry it looked at. Returns no
-- row if it found none.
create or replace function prune_ledger(
    p_before timestamptz, p_after_time timestamptz, p_after_user text, p_after_key text,
    p_after_feature text, p_limit integer
) returns table (
    looked_at bigint, pruned bigint, booked_at timestamptz, user_id text, key text, feature text
)
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    with seen as materialized (
        select e.user_id, e.idempotency_key, e.feature, e.booked_at, e.period,
               row_number() over (
                   order by e.booked_at, e.user_id, e.idempotency_key, e.feature
               ) as position
        from (
            select n.user_id, n.idempotency_key, n.feature, n.booked_at, n.period
            from usage_event n
            where n.booked_at >= p_after_time and n.booked_at < p_before
              and (n.booked_at, n.user_id, n.idempotency_key, n.feature)
                  > (p_after_time, p_after_user, p_after_key, p_after_feature)
            order by n.booked_at, n.user_id, n.idempotency_key, n.feature
            limit p_limit
        ) as e
    ),
    done as materialized (
        select p.id
        from usage_period p
        where p.id in (select s.period from seen s) and p.closed_at < p_before
          and not exists (
              select from usage_total t where t.period = p.id and not t.fully_claimed
          )
          and not exists (
              select from usage_delivery d
              where d.period = p.id
                and (d.state <> 'sent' and d.resolved_at is null or d.compare_at is not null)
          )
    ),
    gone as (
        delete from usage_event e
        using seen s
        where e.user_id = s.user_id and e.idempotency_key = s.idempotency_key
          and e.feature = s.feature and s.period in (select id from done)
        returning e.user_id, e.idempotency_key, e.feature, e.fingerprint
    ),
    credits as (
        delete from usage_credit c
        using gone g
        where c.user_id = g.user_id and c.idempotency_key = g.idempotency_key
          and c.feature = g.feature
    ),
    kept as (
        insert into usage_key (key, fingerprint)
        select usage_key_of(g.user_id, g.feature, g.idempotency_key),
               encode(g.fingerprint, 'hex')::uuid
        from gone g
        on conflict (key) do nothing
    )
    select s.position, (select count(*) from gone), s.booked_at, s.user_id, s.idempotency_key,
           s.feature
    from seen s
    order by s.position desc
    limit 1
$$;

-- Merges the sent deliveries of old periods: periods that closed before p_before and have nothing
-- left to claim, to send or to decide. Returns how many periods it looked at (0 if none is left)
-- and how many of them it finished. All deliveries of a feature that were billed in one period
-- become one delivery of kind 'merged'. So the sums that totals are compared with do not change.
-- One call merges about p_rows deliveries, whole features at a time, and may leave a period half
-- done.
create or replace function compact_deliveries(
    p_before timestamptz, p_rows integer, out looked_at integer, out finished integer
)
language plpgsql as $$
declare
    v_periods bigint[];
begin
    select array_agg(n.id) into v_periods
    from (
        select p.id
        from usage_period p
        where p.closed_at < p_before and p.compacted_at is null
          and not exists (
              select from usage_total t where t.period = p.id and not t.fully_claimed
          )
          -- The condition on the user lets Postgres use the small indexes on unsent deliveries and
          -- on deliveries in doubt, instead of reading all deliveries of the period.
          and not exists (
              select from usage_delivery d
              where d.user_id = p.user_id and d.period = p.id
                and d.state <> 'sent' and d.resolved_at is null
          )
          and not exists (
              select from usage_delivery d
              where d.user_id = p.user_id and d.period = p.id and d.compare_at is not null
          )
        order by p.closed_at
        limit 20
        for update of p skip locked
    ) as n;

    with unmerged as materialized (
        -- `before`: an upper bound for the number of deliveries of the totals ahead of this one.
        -- `seq` numbers the deliveries of a total, so a total has at most `seq` deliveries.
        select t.period, t.feature,
               sum(t.seq) over (order by t.period, t.feature) - t.seq as before
        from usage_total t
        where t.period = any (v_periods)
          and exists (
              select from usage_delivery d
              where d.period = t.period and d.feature = t.feature
                and d.state = 'sent' and d.kind <> 'merged'
          )
    ),
    sent as (
        delete from usage_delivery d
        using unmerged u
        where u.before < p_rows
          and d.period = u.period and d.feature = u.feature and d.state = 'sent'
        returning d.period, d.feature, d.seq, d.user_id, d.quantity, d.claimed_at, d.due_at,
                  d.sent_at, d.answered_at, d.billed_period
    )
    insert into usage_delivery (
        period, feature, seq, user_id, kind, quantity, event_id, body, state, claimed_at, due_at,
        sent_at, answered_at, billed_period, note
    )
    select s.period, s.feature, max(s.seq), s.user_id, 'merged', sum(s.quantity),
           delivery_name(s.period, s.user_id, s.feature, max(s.seq)), '', 'sent', min(s.claimed_at),
           max(s.due_at), max(s.sent_at), max(s.answered_at), s.billed_period,
           'merged from ' || count(*)
    from sent s
    group by s.period, s.feature, s.user_id, s.billed_period;

    update usage_period p set compacted_at = now()
    where p.id = any (v_periods)
      and not exists (
          select from usage_delivery d
          where d.period = p.id and d.state = 'sent' and d.kind <> 'merged'
      );
    get diagnostics finished = row_count;
    looked_at := coalesce(cardinality(v_periods), 0);
end
$$;
