"""A Lambda runtime client for platforms for which `awslambdaric` has no build: see `client`."""
