"""Starts the emulator, which then unpacks each layer once. Uses the standard library only.

The emulator unpacks the layer anew for each function and version: thousands of files, dozens of
times. Functions read a layer and never write to it, so here they share it.

The emulator's own Python runs this file: python unpacking.py DIRECTORY
"""

import hashlib
import runpy
import sys
import threading
import zipfile
from pathlib import Path

_extractall = zipfile.ZipFile.extractall
_lock = threading.Lock()


def share_layers(directory: Path) -> None:
    """From now on, a layer is unpacked into `directory`, and functions get a link to it."""

    def extractall(
        self: zipfile.ZipFile, path: str | None = None, members: None = None, pwd: None = None
    ) -> None:
        archive = Path(self.filename or "")
        if path is None or not archive.name.startswith("layer_"):
            _extractall(self, path, members, pwd)
            return
        shared = directory / hashlib.sha256(archive.read_bytes()).hexdigest()
        with _lock:
            if not shared.exists():
                fresh = shared.with_suffix(".new")
                _extractall(self, fresh)
                fresh.rename(shared)
        Path(path).rmdir()
        Path(path).symlink_to(shared)

    zipfile.ZipFile.extractall = extractall  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir()
    share_layers(place)
    sys.argv[1:] = []
    sys.path[0] = str(Path.cwd())  # and not this file's directory
    runpy.run_module("ministack", run_name="__main__", alter_sys=True)
