-- Users, their sessions, and the counters that slow down password guessing.
-- Text keys are collate "C": Postgres compares them as bytes, the same on every server.

create table users (
    id                 text collate "C" primary key,
    email              text not null,
    name               text,
    password_hash      text,               -- null: registered by a backend, cannot sign in
    commet_customer_id text collate "C",   -- null until the first checkout
    created_at         timestamptz not null,
    -- The times of the newest changes of two kinds. An older change of that kind has no effect,
    -- whenever it arrives.
    entitlements_at    timestamptz,        -- the newest complete set of entitlements
    unsubscribed_at    timestamptz,        -- Commet said: the customer has no subscription at all
    -- Until then the user may change the subscription at Commet without a webhook reaching us.
    doubted_until      timestamptz,
    asked_at           timestamptz,        -- when Commet was last asked because of that doubt
    answered_at        timestamptz         -- when the last question that Commet answered was asked
);
-- "C": which letters are equal does not depend on the server's locale.
create unique index users_email_key on users (lower(email collate "C"));
create unique index users_commet_customer_key on users (commet_customer_id);

-- Only the SHA-256 of a token is stored: a stolen table opens no session.
create table sessions (
    token_sha256 bytea primary key,
    user_id      text collate "C" not null references users (id) on delete cascade,
    created_at   timestamptz not null,
    last_seen_at timestamptz not null,
    expires_at   timestamptz not null
);
create index sessions_user_id on sessions (user_id);
create index sessions_expires_at on sessions (expires_at);

-- Attempts to sign in or to sign up, counted by key (an email address or a network) and by window
-- of time.
create table attempts (
    key          text collate "C" not null,
    window_start timestamptz not null,
    count        integer not null,
    primary key (key, window_start)
);
create index attempts_window_start on attempts (window_start);
