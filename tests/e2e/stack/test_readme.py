"""What the README tells a newcomer to paste, pasted."""

import json
import re
import subprocess
from pathlib import Path

from local.stack import LocalStack

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


def test_the_first_requests_work_as_they_are_printed(stack: LocalStack) -> None:
    """Both answer what the text around them promises."""
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl" in b]
    commands = re.findall(r"^curl (?:.*\\\n)*.*", block, re.MULTILINE)
    answers = [
        json.loads(
            subprocess.run(
                ["bash", "-c", command.replace("http://127.0.0.1:3000", stack.api)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for command in commands
    ]
    plans, signed_up = answers
    assert {"usage_pro", "free"} <= {plan["code"] for plan in plans["plans"]}
    assert signed_up["user"]["email"] == "ana@example.com"
    assert signed_up["session"]["token"].startswith("ses_")
