-- Payment trouble: what went wrong with a user's payments, as Commet's webhooks report it. The
-- table holds ids, amounts and states only.

-- One row for each thing that Commet tells apart. `kind` says what `about` names:
--   failed_payment  the invoice whose payment failed. Outcomes: recovered, given_up
--   unpaid_invoice  the invoice that is overdue. Outcome: voided
--   refund          the transaction that was given back. Outcome: refunded, at once
--   dispute         the transaction that the cardholder disputes. Outcomes: won, lost, unknown
--   payment_link    the payment link. Outcomes: completed, canceled. A declined card ends nothing
create table payment_trouble (
    user_id         text collate "C" not null references users (id) on update cascade,
    kind            text collate "C" not null check (kind in
                    ('failed_payment', 'unpaid_invoice', 'refund', 'dispute', 'payment_link')),
    about           text collate "C" not null,
    invoice_id      text collate "C",
    transaction_id  text collate "C",
    payment_link_id text collate "C",
    subscription_id text collate "C",
    amount          numeric(21,6),      -- in major units; of a refund: of the newest one
    currency        text,               -- lower-case ISO 4217
    reason          text,               -- Commet's code of the decline or of the dispute
    -- Commet's page on which the user can make up for a failed payment. Somebody who has the link
    -- can pay, and do nothing else. The link is never logged.
    recovery_url    text,
    opened_at       timestamptz not null,  -- the time of the oldest news
    resolved_at     timestamptz,           -- null while the trouble goes on
    outcome         text,                  -- null while the trouble goes on
    changed_at      timestamptz not null,  -- the time of the newest news
    -- For each column, the time of the news that wrote it, in epoch seconds. Older news does not
    -- overwrite the column.
    known_at        jsonb not null default '{}',
    told            jsonb not null default '{}',  -- what outgoing events have reported of it
    asked_at        timestamptz,           -- of an open dispute: when Commet was last asked
    primary key (user_id, kind, about)
);
-- Finds a dispute whoever has the transaction: the dispute's debt may belong to another user by
-- now.
create index payment_trouble_disputes on payment_trouble (about) where kind = 'dispute';
-- Disputes that no webhook has ended yet. There are few. reconcile asks Commet about the old ones.
create index payment_trouble_open_disputes on payment_trouble (changed_at)
    where kind = 'dispute' and resolved_at is null;
