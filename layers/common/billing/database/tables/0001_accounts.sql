-- Users, their passwords, sessions and tokens, and counters of attempts.
-- Text keys are collate "C": Postgres compares them as bytes, the same on every server.

create table users (
    id                 text collate "C" primary key,
    -- As it was typed; null: not known, as long as the token of an identity provider has none.
    email              text,
    -- By this key two spellings of one address are found equal (billing/email_address.py). Null: the
    -- key is `email` in NFKC and lower case.
    email_key          text collate "C",
    name               text,
    -- Whether the user signed up here, and so has a password (table passwords). Else a product
    -- registered the user, and the address is contact data.
    own_account        boolean not null default false,
    -- When the owner of the own account proved to have the address; null: not proven. An unverified
    -- account has no claim on its address.
    verified_at        timestamptz,
    freed_at           timestamptz,        -- when an operator took the address from the account
    commet_customer_id text collate "C",   -- the user's customer; written by routines/customers.sql
    -- When Commet was asked to create a customer for the user; null: never, or it refused. And when it
    -- last answered with somebody else's customer, because of the address.
    customer_requested_at  timestamptz,
    billing_email_taken_at timestamptz,
    created_at         timestamptz not null,
    -- The times of the newest changes of two kinds. An older change of that kind has no effect,
    -- whenever it arrives.
    entitlements_at    timestamptz,        -- the newest complete set of entitlements
    unsubscribed_at    timestamptz,        -- Commet said: the customer has no subscription at all
    -- Until then the user may change the subscription at Commet without a webhook reaching us.
    doubted_until      timestamptz,
    asked_at           timestamptz,        -- when Commet was last asked because of that doubt
    answered_at        timestamptz,        -- when the last question that Commet answered was asked
    -- Overage is given in good standing only: without an open dispute and without a debt of
    -- DebtFloor or more.
    has_dispute        boolean not null default false,
    has_debt           boolean not null default false,
    -- How much overage the user may have in an allowance period, in major units.
    spend_limit        numeric(21,6) check (spend_limit >= 0),      -- by the product; null: default
    own_spend_limit    numeric(21,6) check (own_spend_limit >= 0),  -- by the user; null: no own one
    -- Until then the user may leave at Commet, so that any overage is delivered at once.
    overage_due_until  timestamptz
);
-- "C": which letters are equal does not depend on the server's locale.
create unique index users_email_key on users (coalesce(email_key, lower(normalize(email, nfkc) collate "C")))
    where own_account and verified_at is not null;
create index users_email on users (coalesce(email_key, lower(normalize(email, nfkc) collate "C")));
create unique index users_commet_customer_key on users (commet_customer_id);

-- Users whom an identity provider brings (routines/identities.sql). A row holds the person's id there, so
-- it goes when the person leaves.
create table identities (
    issuer     text collate "C" not null,
    subject    text collate "C" not null,  -- what the issuer calls the user
    -- At once with the user, who is inserted after this row has been won.
    user_id    text collate "C" not null unique
               references users (id) on delete cascade deferrable initially deferred,
    created_at timestamptz not null,
    told_at    timestamptz,                -- when the token was issued that last told something below; null: none
    -- Hashes of the address and the name that the issuer last told; null: none. They differ from the
    -- user's own where these were changed here.
    email_sha256 bytea,
    name_sha256  bytea,
    -- The key of the address that the user has proved to the issuer to have; null: none. An address that
    -- was changed here is not proven by it.
    proven_email_key text collate "C",
    primary key (issuer, subject)
);

-- Apart from users, so that only the functions that check a password may read this table.
create table passwords (
    user_id    text collate "C" primary key references users (id) on delete cascade,
    hash       text not null,              -- argon2id, with its salt and parameters
    changed_at timestamptz not null
);

-- Only the SHA-256 of a token is stored: a stolen table opens no session.
create table sessions (
    token_sha256 bytea primary key,
    id           text collate "C" not null unique,  -- names the session in the user's list
    user_id      text collate "C" not null references users (id) on delete cascade,
    device       text,                     -- browser and system, as "Firefox on Linux"; null: not known
    created_at   timestamptz not null,
    last_seen_at timestamptz not null,     -- to the hour
    expires_at   timestamptz not null
);
create index sessions_user_id on sessions (user_id);
create index sessions_expires_at on sessions (expires_at);

-- What a link in a mail does, once, until expires_at. The token in the link is made from the id with a
-- secret that is not in the database (billing/accounts/tokens.py), so a stolen table makes no link.
create table account_tokens (
    id         text collate "C" primary key,
    user_id    text collate "C" not null references users (id) on delete cascade,
    purpose    text not null check (purpose in ('verify_email', 'change_email', 'reset_password', 'sign_in')),
    email      text not null,              -- the address that the mail goes to
    email_key  text collate "C" not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_in    text,                       -- the request that used the token; null: not used
    unique (user_id, purpose)              -- a newer token replaces the older one
);
create index account_tokens_expires_at on account_tokens (expires_at);

-- The networks from which an account signed in. They go on while somebody guesses its password.
create table known_networks (
    user_id      text collate "C" not null references users (id) on delete cascade,
    network      text collate "C" not null, -- an HMAC of the address, of IPv6 the first 64 bits
    last_seen_at timestamptz not null,
    primary key (user_id, network)
);

-- Attempts, counted by key and by window of time. Keys are HMACs of email addresses and networks
-- (sign-in, sign-up), and 'checkout:' or 'portal:' with a user's id.
create table attempts (
    key          text collate "C" not null,
    window_start timestamptz not null,
    count        integer not null,
    primary key (key, window_start)
);
create index attempts_window_start on attempts (window_start);
