-- Thresholds: how much has to be used or spent before an outgoing event says so (docs/usage.md,
-- "Thresholds").

-- `set_by` is 'operator' for a threshold of all users, 'product' for one of one user, and 'user'
-- for a user's own. The defaults, 80 and 100 percent, have no rows (thresholds_in_effect).
create table threshold (
    id         text collate "C" primary key,
    user_id    text collate "C" references users (id) on update cascade on delete cascade,
    set_by     text not null check (set_by in ('operator', 'product', 'user')),
    measure    text not null check (measure in ('usage', 'spend')),
    feature    text collate "C",              -- null: any feature; always null for `spend`
    -- of the included quantity, or of the limit
    percent    integer check (percent between 1 and 1000),
    amount     numeric(21,6) check (amount > 0),  -- a quantity, or major units of the user's currency
    created_at timestamptz not null,
    check ((set_by = 'operator') = (user_id is null)),
    check ((percent is null) <> (amount is null)),
    -- An amount needs a feature: amounts of two features, such as storage and calls, cannot be
    -- compared.
    check (case measure when 'spend' then feature is null
                        else feature is not null or amount is null end)
);
create index threshold_user_id on threshold (user_id, id);

-- The thresholds that were reached in each period. A row is deleted when the use falls below its
-- value.
create table threshold_reached (
    period     bigint not null references usage_period (id),
    measure    text not null check (measure in ('usage', 'spend')),
    feature    text collate "C" not null,     -- '' for `spend`
    -- '80%', an amount, or 'refused': the limit was reached and usage was refused.
    mark       text collate "C" not null,
    value      numeric,                       -- the value to reach; null for 'refused'
    reached_at timestamptz not null,
    primary key (period, measure, feature, mark)
);

-- The ceilings with which spend thresholds were last checked. If OverageCeiling was changed, the
-- next run of `reconcile` checks the thresholds again.
create table evaluated_ceilings (
    id       integer primary key check (id = 1),
    ceilings jsonb not null
);
