"""Deploys the stack, deletes old versions, deletes the stack: `make deploy`, `prune`, `delete`."""
