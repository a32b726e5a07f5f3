"""Commands that an operator pastes into a terminal. The operators' page does nothing itself.

Ids come from products and from Commet, so each is quoted for the shell.
"""

import json
import re
import shlex
from collections.abc import Mapping

Value = str | bool

# The verbs of `make` that are not named as their command.
_VERBS = {"repair_drift": "repair"}
# A placeholder for the reason, which the operator writes.
WHY = "..."

_PLAIN = re.compile(r"[\w.:@+-]+", re.ASCII)


def pasted(command: str, *, local: bool, **values: Value) -> str:
    """Returns the command with its values: a verb of `make` on the local stack, else `ask` with
    JSON.

    docs/operations.md defines `ask`. `make` gives some characters a meaning of its own, so a
    command with such a value uses `ask` everywhere.
    """
    texts = {name: "1" if value is True else str(value) for name, value in values.items()}
    if local and all(_PLAIN.fullmatch(text) for text in texts.values()):
        return _of_make(command, texts)
    return f"ask {shlex.quote(json.dumps({'command': command, **values}))}"


def _of_make(command: str, texts: Mapping[str, str]) -> str:
    verb = _VERBS.get(command, command.replace("_", "-"))
    return " ".join(["make", verb, *(f"{name}={text}" for name, text in texts.items())])
