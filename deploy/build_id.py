"""Prints the template's BuildId: a digest of everything that a deployment consists of.

    python deploy/build_id.py [Parameter=value ...]

The digest covers the files on disk, committed or not, and the parameters that will be deployed. A
change of any of them has to publish new versions of the functions.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("template.yaml", "samconfig.toml", "functions", "layers")


def build_id(root: Path, parameters: Sequence[str] = ()) -> str:
    """Returns the digest's first 16 hex digits. Raises FileNotFoundError if one of PARTS is
    missing.
    """
    digest = hashlib.sha256()
    for path in _files(root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for parameter in sorted(parameters):
        digest.update(f"{parameter}\0".encode())
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterable[Path]:
    for part in PARTS:
        place = root / part
        if not place.exists():
            raise FileNotFoundError(place)
        found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
        yield from (path for path in found if "__pycache__" not in path.parts)


if __name__ == "__main__":
    print(build_id(ROOT, sys.argv[1:]))
