-- Erasure: users who left, and what is remembered of people.

-- A hash of who the user is: of the address of an own account or of the id that a product gave, with a key
-- that is not in the database (accounts/people.py); of an identity provider's issuer and subject
-- without a key, because subjects are random (routines/identities.sql).
alter table users add column person bytea;
alter table users add column erased_at timestamptz;     -- when the first step of erasure was done
-- Inherited from an erased account of the same person (routines/erasing.sql): had a trial; until then a
-- free plan is not given again.
alter table users add column inherits_trial boolean not null default false;
alter table users add column free_until timestamptz;
-- What housekeeping looks for (delete_unverified).
create index users_unverified on users (created_at)
    where own_account and verified_at is null and erased_at is null;

-- One row for each erased user.
create table erasure (
    user_id      text collate "C" primary key references users (id) on update cascade,
    -- The id that replaces the user's: the user's own if it is one of ours, which is random.
    pseudonym    text collate "C" not null unique,
    asked_at     timestamptz not null default now(),
    due_at       timestamptz default now(),  -- when reconcile goes on; null: finished, here and at Commet
    tries        integer not null default 0, -- runs in a row in which Commet did not let it go on
    ended_at     timestamptz,              -- when nothing of the user ran at Commet any more
    renamed_at   timestamptz,              -- since then Commet has the pseudonym for the customer
    finished_at  timestamptz,              -- when the second step was done
    -- The second step goes on behind this entry of the ledger.
    done_key     text collate "C" not null default '',
    done_feature text collate "C" not null default '',
    given_sha256 bytea,                    -- of the id that was replaced: finds late webhooks
    -- The account with which the person came back. Debts that become known later are its debts.
    heir         text collate "C"
);
create index erasure_due_at on erasure (due_at) where due_at is not null;
create index erasure_heir on erasure (heir) where heir is not null;
create index erasure_given_sha256 on erasure (given_sha256) where given_sha256 is not null;

-- What is remembered of a person who was erased.
create table remembered (
    person     bytea primary key,          -- users.person
    -- The erased user. Null once the second step is done and nothing is owed or may be (may_owe).
    user_id    text collate "C" references users (id) on update cascade,
    had_trial  boolean not null default false,
    free_until timestamptz,
    -- Tokens of an identity provider that were issued before bring nobody back.
    erased_at  timestamptz not null default now()
);
create index remembered_user_id on remembered (user_id) where user_id is not null;
