"""Deploys the stack to AWS, and deletes old versions there: `make deploy`, `make prune`."""
