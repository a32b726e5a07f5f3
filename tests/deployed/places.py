"""Where things are. What stays between two runs is below `.deploy-test`, and may be deleted."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".deploy-test"

LOCK = KEPT / "lock"
# The emulator's own virtual environment.
ENVIRONMENT = KEPT / "emulator"
# A copy of the project: the test changes its code. `make build` keeps its cache there.
PROJECT = KEPT / "project"
LOGS = KEPT / "logs"

HOST = "127.0.0.1"
REGION = "us-east-1"
