-- The budget for calls to Commet.

-- name: take
select take_tokens(
    'commet', %(count)s::numeric, %(keep)s::numeric, %(rate)s::numeric, %(burst)s::numeric
)

-- Nothing for anybody until then, and then from empty.
-- name: pause
insert into call_budget as b (name, tokens, refilled_at)
values ('commet', 0, clock_timestamp() + make_interval(secs => %(seconds)s))
on conflict (name) do update set
    tokens = 0, refilled_at = greatest(b.refilled_at, excluded.refilled_at)
