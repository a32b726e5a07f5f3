"""Where things are. What stays between two runs is below `.deploy-test`, and may be deleted."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The emulator's own virtual environment, which all runs share.
ENVIRONMENT = ROOT / ".deploy-test" / "emulator"
# The runs of interrupted.py have a place each.
KEPT = Path(os.environ.get("DEPLOY_TEST_PLACE", ROOT / ".deploy-test"))

LOCK = KEPT / "lock"
# A copy of the project: the test changes its code. `make build` keeps its cache there.
PROJECT = KEPT / "project"
LOGS = KEPT / "logs"

HOST = "127.0.0.1"
REGION = "us-east-1"

# Of the directory that is thrown away.
PREFIX = "usage-billing-deploy-test-"
