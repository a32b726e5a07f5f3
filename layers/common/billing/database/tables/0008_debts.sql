-- Debts: money that users owe for usage that nobody billed, or that was billed and never paid.

-- A debt is open until `ended_at`. `source` names where it comes from, by kind:
--   lost_usage       the allowance period whose deliveries Commet refused after a cancellation; a
--                    second debt of the same period is '<period>:2'
--   voided_invoice   Commet's id of an invoice that ended void or uncollectible
--   lost_dispute     Commet's id of the transaction whose dispute was lost
create table debt (
    id        bigint generated always as identity primary key,
    user_id   text collate "C" not null references users (id) on update cascade,
    kind      text not null check (kind in ('lost_usage', 'voided_invoice', 'lost_dispute')),
    source    text collate "C" not null,
    amount    numeric(36,6),             -- in major units; null: not known yet
    tax       numeric(36,6) not null default 0,  -- the part of `amount` that is tax
    currency  text,
    opened_at timestamptz not null,
    ended_at  timestamptz,
    -- How the debt ended. paid: by a payment link of ours. collected: by Commet, in another way.
    -- withdrawn: its reason is gone (the usage was sent again, lowered or resolved, or the invoice
    -- had no overage).
    ended_by  text check (ended_by in ('paid', 'collected', 'forgiven', 'withdrawn')),
    author    text,                      -- who wrote `forgiven`
    note      text,
    -- While the amount is not known: when reconcile next reads it at Commet, and how many times it
    -- has read.
    due_at    timestamptz,
    reads     integer not null default 0,
    unique (kind, source),               -- whoever has the debt
    check ((ended_at is null) = (ended_by is null))
);
create index debt_user_id on debt (user_id, id);
create index debt_open on debt (user_id) where ended_at is null;
create index debt_due_at on debt (due_at) where due_at is not null;

-- Payment links for debts. A row is written before Commet is asked for the link, so that a request
-- without an answer is repeated with the same key. State:
--   offered      the user's present link; one at most
--   superseded   the debts have changed since. The link may still be payable, because Commet
--                cancels no link that somebody has tried to pay
--   paid, canceled
create table debt_link (
    id             bigint generated always as identity primary key,
    user_id        text collate "C" not null references users (id) on update cascade,
    debts          bigint[] not null,        -- ids, ascending
    net            numeric(36,6) not null,   -- the amount that we ask for; Commet adds tax
    currency       text not null,
    state          text not null default 'offered' check (state in
                   ('offered', 'superseded', 'paid', 'canceled')),
    created_at     timestamptz not null,
    leased_until   timestamptz,              -- until then only one request asks Commet for the link
    payment_id     text collate "C",         -- null until Commet has answered
    url            text,
    total          numeric(36,6),            -- the amount that is paid at `url`, with tax
    due_at         timestamptz,              -- when reconcile asks Commet about the link
    asks           integer not null default 0,
    ended_at       timestamptz,
    transaction_id text collate "C",         -- of the payment, if a webhook told it
    -- The part of the payment beyond the debts that were open then. It has to be refunded.
    overpaid       numeric(36,6) not null default 0,
    refunded_at    timestamptz
);
create index debt_link_user_id on debt_link (user_id);
create unique index debt_link_offered on debt_link (user_id) where state = 'offered';
create unique index debt_link_payment_id on debt_link (payment_id) where payment_id is not null;
create index debt_link_unfinished on debt_link (user_id)
    where state in ('offered', 'superseded') and payment_id is not null;
create index debt_link_unfinished_debts on debt_link using gin (debts)
    where state in ('offered', 'superseded') and payment_id is not null;
create index debt_link_due_at on debt_link (due_at) where due_at is not null;
create index debt_link_overpaid on debt_link (id) where overpaid > 0 and refunded_at is null;

-- Ended subscriptions whose invoices reconcile has to look through, because no webhook reports that
-- an invoice became uncollectible.
create table invoice_search (
    subscription_id text collate "C" primary key,
    user_id         text collate "C" not null references users (id) on update cascade,
    due_at          timestamptz not null,
    searches        integer not null default 0
);
create index invoice_search_due_at on invoice_search (due_at);
create index invoice_search_user_id on invoice_search (user_id);

-- By currency, the sum of open debts at which a user is refused. Reconcile copies these sums from
-- the parameters. Debts in a currency without a row refuse nobody.
create table debt_floor (
    currency text primary key,
    amount   numeric(36,6) not null
);

-- Reconcile searches for users whose has_debt is wrong. Few users have a debt.
create index users_has_debt on users (id) where has_debt;

-- The debt that a lost delivery belongs to (0005_delivery.sql).
alter table usage_delivery add column debt bigint;
create index usage_delivery_debt on usage_delivery (debt) where debt is not null;
