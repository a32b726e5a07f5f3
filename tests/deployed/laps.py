"""Prints a line at the end of each step, with the seconds it took."""

import time


class Laps:
    """The steps of a run."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def done(self, what: str) -> None:
        """Ends a step."""
        now = time.monotonic()
        print(f"{now - self._last:6.1f} s  {what}", flush=True)
        self._last = now
