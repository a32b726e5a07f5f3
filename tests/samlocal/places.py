"""Where things are kept. All of it is below one directory, which may be deleted at any time."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".sam-local"

LOCK = KEPT / "lock"
DEBS = KEPT / "debs"
UNPACKED = KEPT / "debian"
PLUGINS = KEPT / "plugins"
ENGINE = KEPT / "engine"
PROJECT = KEPT / "project"
LOGS = KEPT / "logs"
