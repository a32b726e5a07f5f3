-- What a correction of a period that is over needs to have given back, as its author was told: the
-- answer to a correction that is sent again is the same, whatever else became of that period. A table
-- of its own: few entries of the ledger have one.
create table usage_credit (
    user_id         text collate "C" not null,
    idempotency_key text collate "C" not null,    -- of the correction
    quantity        numeric(15,6) not null check (quantity > 0),
    amount          numeric(21,6),                -- in major units; null: its price is not known
    currency        text,
    primary key (user_id, idempotency_key)
);
