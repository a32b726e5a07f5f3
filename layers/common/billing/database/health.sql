-- Returns whether the server accepts writes and has our tables.
-- name: is_ready
select not pg_is_in_recovery()
   and current_setting('transaction_read_only') = 'off'
   and to_regclass('schema_migrations') is not null
   and to_regclass('users') is not null
   and has_table_privilege(to_regclass('users'), 'insert')
   and to_regclass('usage_event') is not null
