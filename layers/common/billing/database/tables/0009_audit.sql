-- The audit trail: who did what to which account, and when. Functions may only read it: entries are
-- written by the routine `audit`, and only housekeeping's routine deletes old ones. Entries hold ids,
-- codes and flags, and no personal data but in `note`.
create table audit (
    id         uuid primary key,          -- made by the writer, so a repeated statement writes once
    at         timestamptz not null default clock_timestamp(),  -- by the database's clock
    -- Who: 'user' (a session, or somebody who signs in), 'service' (a product's backend), 'operator'
    -- or 'system' (a scheduled run, a webhook).
    actor_kind text not null check (actor_kind in ('user', 'service', 'operator', 'system')),
    -- The user's id, the service key's name, or the operator's author. Null: not known, or not signed in.
    actor      text collate "C",
    user_id    text collate "C",          -- about whom; null: not about a known user
    action     text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
    outcome    text not null,             -- 'done', or the code of the refusal
    request_id text,
    network    text,                      -- the first 24 bits of an IPv4 address, 48 of an IPv6 one
    details    jsonb not null default '{}',
    note       text                       -- what an operator wrote; erased with the user
);
create index audit_user_id on audit (user_id, at, id);
create index audit_at on audit (at);
