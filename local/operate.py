"""An operator's commands for the running local stack: show a user, redrive, sweep.

The same invocations work in AWS (docs/operations.md). This module finds the stack that runs on this
machine, and invokes `reconcile`, or `send_mail` for commands about addresses.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from local.state import shown

_FUNCTION = "ReconcileFunction"
_OTHER_FUNCTIONS = dict.fromkeys(("verify_address", "free_address"), "SendMailFunction")
_SECONDS = 60


class OperateError(Exception):
    """No stack runs on this machine, or it refused the command."""


def ask(data_dir: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer to a command. `data_dir` is the running stack's directory.

    Raises OperateError.
    """
    stack = shown(data_dir)
    if stack is None:
        raise OperateError("No stack runs here. Start one in another terminal: make run")
    function = _OTHER_FUNCTIONS.get(command["command"], _FUNCTION)
    url = f"{stack['lambda']}/2015-03-31/functions/{function}/invocations"
    try:
        reply = httpx.post(url, json=dict(command), timeout=_SECONDS, trust_env=False)
        answer: dict[str, Any] = reply.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise OperateError(f"The stack does not answer: {error}") from error
    if "x-amz-function-error" in reply.headers:
        raise OperateError(str(answer.get("errorMessage")))
    return answer
