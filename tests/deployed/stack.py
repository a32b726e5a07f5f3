"""The stack in the emulated account, and the commands of docs/deploy.md that change it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deployed.emulator import CREDENTIALS, UNSET
from tests.deployed.errors import Failed
from tests.deployed.front import Front
from tests.deployed.places import LOGS, PROJECT, REGION, ROOT

NAME = "usage-billing"
_COMMAND_SECONDS = 600
_NOT_COPIED = (".git", ".venv*", ".aws-sam", ".local", ".sam-local", ".deploy-test", "__pycache__")
_ERRORS = PROJECT / "layers/common/billing/errors.py"
_TABLES = PROJECT / "layers/common/billing/database/tables"
_PRIVILEGES = PROJECT / "layers/common/billing/database/privileges.py"
_CA = PROJECT / "layers/common/billing/database/ca.pem"
# Where the role of most functions gets its tables.
_APP_TABLES = "APP = Privileges(\n    tables={\n"
_TITLE = '"not_found": "There is nothing at this address'


class Project:
    """A copy of the project, whose code the test changes. Builds of the last run are kept."""

    def __init__(self, ca: bytes) -> None:
        PROJECT.mkdir(parents=True, exist_ok=True)
        for old in PROJECT.iterdir():
            if old.name == ".aws-sam":
                continue
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        left_out = shutil.ignore_patterns(*_NOT_COPIED, ".*_cache")
        shutil.copytree(ROOT, PROJECT, ignore=left_out, symlinks=True, dirs_exist_ok=True)
        # The environment that runs this: `make` finds it installed and installs nothing.
        (PROJECT / ".venv").symlink_to((ROOT / ".venv").resolve())
        # The functions trust the CAs in this file. The test's database has none of AWS's.
        with _CA.open("ab") as file:
            file.write(ca)
        self._number = 1

    def next_release(self) -> str:
        """Changes the layer's code and adds a table. Returns the name of the table."""
        self._number += 1
        _add(_ERRORS, _TITLE, f" in release {self._number},")
        last = max(int(file.name[:4]) for file in _TABLES.glob("*.sql"))
        table = f"deploy_test_{self._number}"
        file = _TABLES / f"{last + 1:04}_{table}.sql"
        file.write_text(f"create table {table} (id bigint primary key);\n", encoding="utf-8")
        _add(_PRIVILEGES, _APP_TABLES, f'        "{table}": _KEEP,\n')
        return table


def _add(file: Path, after: str, added: str) -> None:
    """Adds code after the only place with this text. Raises Failed."""
    text = file.read_text(encoding="utf-8")
    if text.count(after) != 1:
        raise Failed(f"{file.name} is not as stack.py expects: {after!r} is not there once")
    file.write_text(text.replace(after, after + added), encoding="utf-8")


class Build:
    """`make build` in the background: `make deploy` then has the layer's packages in its cache."""

    def __init__(self, directory: Path) -> None:
        self._log = LOGS / f"build-{time.monotonic_ns()}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                ["make", "build", "ARCHITECTURE=x86_64"],
                cwd=PROJECT,
                env=_environment(directory),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to answer
            )

    def wait(self) -> None:
        """Returns when it is done. Raises Failed."""
        if self._process.wait(_COMMAND_SECONDS) != 0:
            raise Failed(f"`make build` failed: see {self._log}")


def _environment(directory: Path) -> dict[str, str]:
    """Of commands: nothing of the person who runs this is read, and nothing outside is written."""
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    left_out = {*UNSET, "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"}
    return {k: v for k, v in os.environ.items() if k not in left_out} | {
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(temporary / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(temporary / "no-credentials"),
        "__SAM_CLI_APP_DIR": str(temporary / "sam"),
        "TMPDIR": str(temporary),
    }


class Stack:
    """The stack, by its name in samconfig.toml."""

    def __init__(self, front: Front, directory: Path) -> None:
        self._front = front
        self._directory = directory
        self._runs = 0
        self._cloudformation = front.client("cloudformation")
        self._lambda = front.client("lambda")

    def deploy(self, parameters: Mapping[str, str], *, fails: bool = False) -> str:
        """`make deploy YES=1`. Returns what it printed. Raises Failed."""
        words = " ".join(f"{name}={value}" for name, value in parameters.items())
        return self._run(["make", "deploy", "YES=1", f"PARAMETERS={words}"], fails=fails)

    def deploy_by_hand(self, build_id: str, *, fails: bool = False) -> str:
        """`sam deploy` of what was built last, under a build id of the caller's. Raises Failed."""
        command = [".venv/bin/sam", "deploy", "--config-env", "production"]
        command += ["--no-confirm-changeset", "--parameter-overrides", f"BuildId={build_id}"]
        return self._run(command, fails=fails)

    def prune(self, keep: int) -> str:
        """`make prune`. Returns what it printed. Raises Failed."""
        return self._run(["make", "prune", f"KEEP={keep}"])

    def delete(self, *, logs: str = "keep") -> None:
        """`make delete`. Raises Failed."""
        self._run(["make", "delete", "YES=1", f"LOGS={logs}"])

    def log_groups(self) -> list[str]:
        """The names of the functions' log groups, also when the stack is gone."""
        pages = self._front.client("logs").get_paginator("describe_log_groups").paginate()
        names = [group["logGroupName"] for page in pages for group in page["logGroups"]]
        return [name for name in names if name.startswith(f"{NAME}-") and "Logs-" in name]

    def parameters(self) -> dict[str, str]:
        """The deployed parameters."""
        return {p["ParameterKey"]: p["ParameterValue"] for p in self._describe()["Parameters"]}

    def outputs(self) -> dict[str, str]:
        """The outputs."""
        return {o["OutputKey"]: o["OutputValue"] for o in self._describe()["Outputs"]}

    def status(self) -> str:
        """The stack's status; "" where there is no stack."""
        try:
            return str(self._describe()["StackStatus"])
        except self._cloudformation.exceptions.ClientError:
            return ""

    def reasons(self) -> str:
        """The reasons of all failures in the stack's events."""
        pages = self._cloudformation.get_paginator("describe_stack_events")
        return "\n".join(
            event.get("ResourceStatusReason", "")
            for page in pages.paginate(StackName=NAME)
            for event in page["StackEvents"]
            if event["ResourceStatus"].endswith("_FAILED")
        )

    def template(self) -> dict[str, Any]:
        """What was deployed last, without the resources whose condition does not hold."""
        pages = self._cloudformation.get_paginator("list_stack_resources").paginate(StackName=NAME)
        made = {r["LogicalResourceId"] for page in pages for r in page["StackResourceSummaries"]}
        template = self._front.templates[-1]
        resources = {n: each for n, each in template["Resources"].items() if n in made}
        return template | {"Resources": resources}

    def physical_id(self, logical_id: str) -> str:
        """The physical id of a resource."""
        found = self._cloudformation.describe_stack_resource(
            StackName=NAME, LogicalResourceId=logical_id
        )
        return str(found["StackResourceDetail"]["PhysicalResourceId"])

    def invoke(self, logical_id: str, event: Mapping[str, str] | None = None) -> None:
        """Runs a function as its schedule does, or with an operator's event. Raises Failed."""
        answer = self._lambda.invoke(
            FunctionName=f"{self.physical_id(logical_id)}:live", Payload=json.dumps(event or {})
        )
        if "FunctionError" in answer:
            raise Failed(f"{logical_id} failed: {answer['Payload'].read()[:500]!r}")

    def functions(self) -> list[str]:
        """The names of all functions in the account."""
        pages = self._lambda.get_paginator("list_functions").paginate()
        return [f["FunctionName"] for page in pages for f in page["Functions"]]

    def aliased(self) -> dict[str, int]:
        """The version that each function's alias points to."""
        return {
            name: int(self._lambda.get_alias(FunctionName=name, Name="live")["FunctionVersion"])
            for name in self.functions()
        }

    def versions(self) -> dict[str, int]:
        """How many versions each function has, $LATEST left out."""
        counted = {}
        for name in self.functions():
            found = self._lambda.list_versions_by_function(FunctionName=name)["Versions"]
            counted[name] = len([v for v in found if v["Version"] != "$LATEST"])
        return counted

    def secret_name(self, logical_id: str) -> str:
        """The name of a secret that the stack made."""
        client = self._front.client("secretsmanager")
        return str(client.describe_secret(SecretId=self.physical_id(logical_id))["Name"])

    def webhook_secrets(self) -> list[str]:
        """The secrets that the webhook accepts, the newest first."""
        client = self._front.client("secretsmanager")
        found = client.get_secret_value(SecretId=self.physical_id("WebhookSecret"))
        return [
            each if isinstance(each, str) else str(each["secret"])
            for each in json.loads(found["SecretString"])["secrets"]
        ]

    def _describe(self) -> dict[str, Any]:
        (found,) = self._cloudformation.describe_stacks(StackName=NAME)["Stacks"]
        described: dict[str, Any] = found
        return described

    def _run(self, command: list[str], *, fails: bool = False) -> str:
        self._runs += 1
        log = LOGS / f"{self._runs:02}-{Path(command[0]).name}-{command[1]}.log"
        environment = _environment(self._directory) | {
            "AWS_ENDPOINT_URL": self._front.address,
            "AWS_MAX_ATTEMPTS": "1",
            "SAM_CLI_POLL_DELAY": "0.5",  # seconds; nobody else uses this account
            **CREDENTIALS,
        }
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_COMMAND_SECONDS,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        printed = log.read_text(errors="replace")
        if (done.returncode != 0) != fails:
            last = "\n".join(printed.strip().splitlines()[-15:])
            how = "succeeded" if fails else f"ended with {done.returncode}"
            raise Failed(f"`{' '.join(command[:3])}` {how}, see {log}:\n{last}")
        return printed
