-- Erasure: users who were erased, and what is remembered of people.

-- A hash that says who the person is. For an own account it is a hash of the address, and for a
-- user of a product a hash of the product's id, both with a key that is not in the database
-- (accounts/people.py). For an identity provider's user it is a hash of issuer and subject without
-- a key, because subjects are random (routines/identities.sql).
alter table users add column person bytea;
alter table users add column erased_at timestamptz;     -- when the first step of erasure was done
-- Inherited from an erased account of the same person (routines/erasing.sql): whether that account
-- had a trial, and until when the person gets no free plan again.
alter table users add column inherits_trial boolean not null default false;
alter table users add column free_until timestamptz;
-- For housekeeping (delete_unverified).
create index users_unverified on users (created_at)
    where own_account and verified_at is null and erased_at is null;

-- One row for each erased user.
create table erasure (
    user_id      text collate "C" primary key references users (id) on update cascade,
    -- The id that replaces the user's id. If the id is one of ours, it is random, and is its own
    -- pseudonym.
    pseudonym    text collate "C" not null unique,
    asked_at     timestamptz not null default now(),
    -- when reconcile goes on; null: finished, here and at Commet
    due_at       timestamptz default now(),
    tries        integer not null default 0, -- runs in a row in which Commet allowed no progress
    ended_at     timestamptz,              -- when nothing of the user was left running at Commet
    renamed_at   timestamptz,              -- when Commet's customer got the pseudonym
    finished_at  timestamptz,              -- when the second step was done
    -- The second step goes on after this entry of the ledger.
    done_key     text collate "C" not null default '',
    done_feature text collate "C" not null default '',
    given_sha256 bytea,                    -- of the replaced id: finds late webhooks
    -- The sequence of the newest outgoing event under the replaced id. If the id is registered
    -- again, the count goes on after it.
    last_sequence bigint not null default 0,
    -- The account with which the person came back. Debts that become known later belong to it.
    heir         text collate "C"
);
create index erasure_due_at on erasure (due_at) where due_at is not null;
create index erasure_heir on erasure (heir) where heir is not null;
create index erasure_given_sha256 on erasure (given_sha256) where given_sha256 is not null;

-- What is remembered of a person who was erased.
create table remembered (
    person     bytea primary key,          -- users.person
    -- The erased user. Null once the second step is done and the user owes nothing and will not
    -- (may_owe).
    user_id    text collate "C" references users (id) on update cascade,
    had_trial  boolean not null default false,
    free_until timestamptz,
    -- A token of an identity provider that was issued before this time creates no new account.
    erased_at  timestamptz not null default now()
);
create index remembered_user_id on remembered (user_id) where user_id is not null;
