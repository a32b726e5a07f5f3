"""Applies the database's routines again when one of their files changes."""

import threading
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "layers/common/billing/database/routines"
_EVERY_SECONDS = 0.5

Stamp = dict[str, tuple[int, int]]


class RoutinesWatch:
    """Watches the files from `start` to `stop`.

    `apply` brings the database up to date. If it raises an error, the error is printed, and the
    next change calls `apply` again, because a person is still editing.
    """

    def __init__(
        self,
        apply: Callable[[], object],
        say: Callable[[str], object],
        *,
        folder: Path = FOLDER,
        every_seconds: float = _EVERY_SECONDS,
    ) -> None:
        self._apply = apply
        self._say = say
        self._folder = folder
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="routines", daemon=True)

    def start(self) -> None:
        self._seen = self._stamp()
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch. Waits for a running `apply`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _stamp(self) -> Stamp:
        found = {}
        for file in sorted(self._folder.glob("*.sql")):
            try:
                status = file.stat()
            except OSError:  # an editor is replacing the file
                continue
            found[file.name] = (status.st_mtime_ns, status.st_size)
        return found

    def _watch(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            now = self._stamp()
            changed = sorted(name for name, _ in set(now.items()) ^ set(self._seen.items()))
            if not changed:
                continue
            self._seen = now
            names = ", ".join(dict.fromkeys(changed))
            try:
                self._apply()
            except Exception as error:  # noqa: BLE001 - a mistake in a file must not end the watch
                self._say(
                    f"{names}: not applied, the database still has the routines before: {error}"
                )
            else:
                self._say(f"{names}: applied to the database.")
