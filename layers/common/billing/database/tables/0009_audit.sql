-- The audit trail: who did what to which account, and when. Functions may only read it: the routine
-- `audit` writes entries, and only a routine of housekeeping deletes old ones. Entries hold ids,
-- codes and flags. Only `note` may hold personal data.
create table audit (
    id         uuid primary key,  -- chosen by the writer, so a repeated statement writes one entry
    at         timestamptz not null default clock_timestamp(),  -- by the database's clock
    -- Who did it: 'user' (a session, or somebody who signs in), 'service' (a product's backend),
    -- 'operator' or 'system' (a scheduled run, a webhook).
    actor_kind text not null check (actor_kind in ('user', 'service', 'operator', 'system')),
    -- The user's id, the service key's name, or the operator's author. Null: not known, or nobody
    -- is signed in.
    actor      text collate "C",
    user_id    text collate "C",          -- whom the entry is about; null: nobody that we know
    action     text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
    outcome    text not null,             -- 'done', or the code of the refusal
    request_id text,
    network    text,                      -- the first 24 bits of an IPv4 address, 48 of an IPv6 one
    details    jsonb not null default '{}',
    note       text                       -- text that an operator wrote; erased with the user
);
create index audit_user_id on audit (user_id, at, id);
create index audit_at on audit (at);
