"""Small faults put in one at a time, each of which a test has to notice (docs/testing.md)."""
