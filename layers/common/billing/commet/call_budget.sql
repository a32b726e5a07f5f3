-- The call budget: one token is one call to Commet.

-- Returns 0 if the tokens were taken, else the seconds after which trying again is worthwhile.
-- name: take
select take_tokens(
    %(name)s, %(count)s::numeric, %(keep)s::numeric, %(rate)s::numeric, %(burst)s::numeric
)

-- Begins a pause: nobody gets a token until it is over, and the bucket is empty then. A pause never
-- shortens another one that is running.
-- name: pause
insert into call_budget as b (name, tokens, refilled_at)
values ('commet', 0, clock_timestamp() + make_interval(secs => %(seconds)s))
on conflict (name) do update set
    tokens = 0, refilled_at = greatest(b.refilled_at, excluded.refilled_at)
