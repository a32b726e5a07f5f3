"""Starts a runtime client under a debugger: `python -m debugpy ... debugged.py CLIENT HANDLER`.

While a person looks at a breakpoint, time passes. So the deadlines of the functions do not end here
(`billing.deadline`), and the gateway gives the invocation a day.

CLIENT is a module, or a file whose name ends in `.py`.
"""

import contextlib
import os
import runpy
import sys

_PATIENT_SECONDS = 86_400.0


def without_deadlines() -> None:
    """Makes every `Deadline` lie a day ahead, where the function's layer has such a class."""
    with contextlib.suppress(ImportError):
        from billing.deadline import Deadline

        def remaining(self: Deadline) -> float:  # noqa: ARG001 - a method has it
            return _PATIENT_SECONDS

        Deadline.remaining = remaining  # type: ignore[method-assign]


if __name__ == "__main__":
    # As `python -m` does: the function's code comes first.
    sys.path[0] = str(os.getcwd())  # noqa: PTH109 - as in client.py
    without_deadlines()
    client = sys.argv[1]
    sys.argv = sys.argv[1:]
    if client.endswith(".py"):
        runpy.run_path(client, run_name="__main__")
    else:
        runpy.run_module(client, run_name="__main__", alter_sys=True)
