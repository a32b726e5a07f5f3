"""Bringing the stack to AWS, and tidying up there: `make deploy`, `make prune`."""
