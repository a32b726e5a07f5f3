"""What runs inside a function's process where `awslambdaric` has no build: see `client`."""
