"""Everything that runs on this machine instead of in AWS. Start with `python -m local --help`."""
