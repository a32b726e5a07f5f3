-- Users, their passwords, sessions and tokens, and counters of attempts.
-- Text keys are collate "C": Postgres compares their bytes, so every server gives the same order.

create table users (
    id                 text collate "C" primary key,
    -- The address as the user typed it. Null: not known, because the identity provider's tokens
    -- have had none.
    email              text,
    -- Two spellings of one address have the same key (billing/email_address.py). Null: the key is
    -- `email` in NFKC and lower case.
    email_key          text collate "C",
    name               text,
    -- True: the user signed up here, and has a password (table passwords). False: a product or an
    -- identity provider brought the user, and the address is contact data.
    own_account        boolean not null default false,
    -- When the owner of the own account proved to have the address. Null: not proven. An unverified
    -- account has no claim on its address.
    verified_at        timestamptz,
    freed_at           timestamptz,        -- when an operator took the address from the account
    commet_customer_id text collate "C",   -- the user's customer; written by routines/customers.sql
    -- customer_requested_at: when Commet was asked to create a customer for the user; null if it
    -- never was, or refused. billing_email_taken_at: when Commet last answered with somebody else's
    -- customer, because that customer has the same address.
    customer_requested_at  timestamptz,
    billing_email_taken_at timestamptz,
    created_at         timestamptz not null,
    -- The times of the newest changes of two kinds. An older change of the same kind has no effect,
    -- even if it arrives later.
    entitlements_at    timestamptz,        -- the newest complete set of entitlements
    unsubscribed_at    timestamptz,        -- Commet said: the customer has no subscription at all
    -- Until this time the user may change the subscription at Commet without a webhook to us.
    doubted_until      timestamptz,
    doubted_at         timestamptz,        -- last link to Commet; earlier answers do not count
    asked_at           timestamptz,        -- when Commet was last asked because of doubted_until
    answered_at        timestamptz,        -- when we asked the last question that Commet answered
    -- Overage is given only in good standing: without an open dispute, and without debts that add
    -- up to DebtFloor.
    has_dispute        boolean not null default false,
    has_debt           boolean not null default false,
    -- The limit of the user's overage in an allowance period, in major units.
    spend_limit        numeric(21,6) check (spend_limit >= 0),  -- set by the product; null: default
    own_spend_limit    numeric(21,6) check (own_spend_limit >= 0),  -- set by the user; null: none
    -- Until this time the user may leave Commet's plan, so any overage is delivered at once.
    overage_due_until  timestamptz
);
-- Collate "C": the server's locale must not decide which letters are equal.
create unique index users_email_key on users (coalesce(email_key, lower(normalize(email, nfkc) collate "C")))
    where own_account and verified_at is not null;
create index users_email on users (coalesce(email_key, lower(normalize(email, nfkc) collate "C")));
create unique index users_commet_customer_key on users (commet_customer_id);

-- Users whom an identity provider brings (routines/identities.sql). A row holds the person's id at
-- the provider, so it is deleted when the person is erased.
create table identities (
    issuer     text collate "C" not null,
    subject    text collate "C" not null,  -- what the issuer calls the user
    -- The check is deferred, because the user is inserted in the same transaction, after this row.
    user_id    text collate "C" not null unique
               references users (id) on delete cascade deferrable initially deferred,
    created_at timestamptz not null,
    -- issue time of the newest token that changed a column below; null: none
    told_at    timestamptz,
    -- Hashes of the newest address and name that the issuer reported; null: none. They differ from
    -- the user's own address and name if those were changed here.
    email_sha256 bytea,
    name_sha256  bytea,
    -- The key of the address that the user has proved to the issuer; null: none. It proves no
    -- address that was changed here.
    proven_email_key text collate "C",
    primary key (issuer, subject)
);

-- A table of its own, so that only the functions that check a password may read it.
create table passwords (
    user_id    text collate "C" primary key references users (id) on delete cascade,
    hash       text not null,              -- argon2id, with its salt and parameters
    changed_at timestamptz not null
);

-- Only the SHA-256 of a token is stored: nobody can open a session with a stolen table.
create table sessions (
    token_sha256 bytea primary key,
    id           text collate "C" not null unique,  -- names the session in the user's list
    user_id      text collate "C" not null references users (id) on delete cascade,
    device       text,                     -- browser and system, as "Firefox on Linux"; null: not known
    created_at   timestamptz not null,
    last_seen_at timestamptz not null,     -- rounded to the hour
    expires_at   timestamptz not null
);
create index sessions_user_id on sessions (user_id);
create index sessions_expires_at on sessions (expires_at);

-- Each link in a mail has one row, and works once, until expires_at. The token in the link is made
-- from the id and a secret that is not in the database (billing/accounts/tokens.py), so nobody can
-- make a link with a stolen table.
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

-- The networks from which an account signed in. Sign-ins from these networks work while somebody
-- else guesses the password.
create table known_networks (
    user_id      text collate "C" not null references users (id) on delete cascade,
    network      text collate "C" not null, -- HMAC of the IP address (of IPv6, its first 64 bits)
    last_seen_at timestamptz not null,
    primary key (user_id, network)
);

-- Numbers of attempts by key and window of time. A key is an HMAC of an email address or a network
-- (sign-in, sign-up), or 'checkout:' or 'portal:' with a user's id.
create table attempts (
    key          text collate "C" not null,
    window_start timestamptz not null,
    count        integer not null,
    primary key (key, window_start)
);
create index attempts_window_start on attempts (window_start);
