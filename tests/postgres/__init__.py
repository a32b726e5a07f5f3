"""What happens when Postgres moves: other versions, a pooler, odd settings, stops and restarts."""
