"""`python -m deploy`: deploy the stack, guided; `python -m deploy prune`: delete old versions."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deploy import parameters, prune
from deploy.aws import Account, Deployed
from deploy.build_id import ROOT, build_id
from deploy.errors import DeployError
from deploy.parameters import Environment, Parameter
from deploy.plan import Plan, commands

TEMPLATE = ROOT / "template.yaml"
SAMCONFIG = ROOT / "samconfig.toml"

_RUNTIME = (3, 13)


def build_parser() -> argparse.ArgumentParser:
    """Commands and flags."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="say what a deployment will do and cost, ask, and do it")
    up.add_argument(
        "parameters", nargs="*", metavar="Name=value", help="parameters of the template"
    )
    up.add_argument(
        "--dry-run", action="store_true", help="say it and do nothing, not even ask AWS"
    )
    up.add_argument("--yes", action="store_true", help="ask nothing; for pipelines")
    down = commands.add_parser("prune", help="delete old versions of functions and layers")
    down.add_argument("--keep", type=_positive, default=3, help="how many of each stay (3)")
    down.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    for each in (up, down):
        each.add_argument("--environment", default="production", help="in samconfig.toml")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    asked = build_parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        environment = parameters.environment(SAMCONFIG, asked.environment)
        if asked.command == "prune":
            return _prune(console, environment, keep=asked.keep, dry_run=asked.dry_run)
        told = {**environment.parameters, **parameters.given(asked.parameters)}
        if asked.dry_run:
            return _rehearse(console, environment, told)
        return _deploy(console, environment, told, ask=not asked.yes)
    except DeployError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Stopped:[/] {escape(str(error))}"
        )
        return 1
    except KeyboardInterrupt:
        console.print("\nNothing was deployed.")
        return 130


def _rehearse(console: Console, environment: Environment, told: dict[str, str]) -> int:
    known = parameters.of_template(TEMPLATE)
    # What is missing may have been deployed before, or would be asked for.
    missing = {n: f"<{n}>" for n, p in known.items() if p.default is None and n not in told}
    values = parameters.settle(known, told, missing, None)
    if missing:
        console.print("Not in samconfig.toml: " + ", ".join(missing) + ".")
        console.print("The first deployment asks for them and the next ones keep them.")
        console.print("They are part of the build id, which will be another one.")
    _plan(environment, values, None, confirm=True).tell(console)
    console.print("\nA dry run: nothing was built, asked or changed.")
    return 0


def _deploy(console: Console, environment: Environment, told: dict[str, str], *, ask: bool) -> int:
    _check_tools()
    if ask and not sys.stdin.isatty():
        raise DeployError("There is nobody to ask: pass --yes (make deploy YES=1).")
    account = Account(environment.region)
    console.print(f"Account {escape(account.identity())}, region {account.region}.")
    before = account.stack(environment.stack)
    _check_state(before)
    known = parameters.of_template(TEMPLATE)
    deployed = {name: value for name, value in before.parameters.items() if name in known}
    values = parameters.settle(known, told, deployed, _asking(console) if ask else None)
    plan = _plan(environment, values, before, confirm=ask)
    plan.tell(console)
    if ask and console.input("\nDeploy this? [y/N] ").strip().lower() not in ("y", "yes"):
        console.print("Nothing was deployed.")
        return 1
    for command in plan.commands:
        _run(command, account.region)
    console.print("\nDeployed. `make prune` deletes versions that are no longer needed.")
    return 0


def _plan(
    environment: Environment, values: dict[str, str], before: Deployed | None, *, confirm: bool
) -> Plan:
    parts = [f"{name}={value}" for name, value in values.items()]
    if before and before.status == "UPDATE_ROLLBACK_COMPLETE":
        # The versions it had published survive a rollback, and Lambda publishes no second one that
        # is the same: the next attempt has to be another build, or it fails as well.
        parts.append(f"after the attempt of {before.updated}")
    digest = build_id(ROOT, parts)
    steps = commands(environment, values, digest, confirm=confirm)
    return Plan(environment, values, digest, before, TEMPLATE, steps)


def _asking(console: Console) -> Callable[[Parameter], str]:
    def ask(parameter: Parameter) -> str:
        console.print(f"\n[bold]{parameter.name}[/]  {escape(parameter.description)}")
        while True:
            value = console.input("> ").strip()
            try:
                parameter.check(value)
            except DeployError as error:
                console.print(escape(str(error)))
            else:
                if value:
                    return value
                console.print("It has no default.")

    return ask


def _check_tools() -> None:
    if sys.version_info[:2] != _RUNTIME:
        raise DeployError(
            "The functions run on Python 3.13 and are compiled by it; this is"
            f" {sys.version_info[0]}.{sys.version_info[1]}."
            " rm -rf .venv && make deploy PYTHON=/path/to/python3.13"
        )
    if _sam() is None:
        raise DeployError("SAM CLI is not installed here: make setup.")


def _check_state(stack: Deployed) -> None:
    if stack.status.endswith("_IN_PROGRESS"):
        raise DeployError(f"{stack.name} is just being changed ({stack.status}). Wait for its end.")
    if stack.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
        raise DeployError(
            f"{stack.name} could not be made or deleted ({stack.status}). Read why in its events,"
            f" then delete it: sam delete --stack-name {stack.name}"
        )
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise DeployError(f"{stack.name} is stuck: docs/upgrade.md, 'When a rollback fails'.")


def _sam() -> str | None:
    """Beside the interpreter that runs this: the version that is pinned, not one of the system."""
    return shutil.which("sam", path=str(Path(sys.executable).parent))


def _run(command: Sequence[str], region: str) -> None:
    program = _sam() if command[0] == "sam" else command[0]
    environment = os.environ | {"AWS_DEFAULT_REGION": region, "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run([program or "", *command[1:]], cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        raise DeployError(
            f"`{' '.join(command[:2])}` failed; see above."
            + (" What failed in AWS was taken back." if command[0] == "sam" else "")
        )


def _prune(console: Console, environment: Environment, *, keep: int, dry_run: bool) -> int:
    account = Account(environment.region)
    console.print(f"Account {escape(account.identity())}, region {account.region}.")
    stack = account.stack(environment.stack)
    if not stack.exists:
        raise DeployError(f"There is no stack {environment.stack} in this account and region.")
    # What is being taken back, or waits for that, may still need any version.
    _check_state(stack)
    unneeded = prune.find(account, environment.stack, keep)
    for kind, found in (("function", unneeded.functions), ("layer", unneeded.layers)):
        for name, versions in found.items():
            console.print(f"  {kind} {escape(name)}: {', '.join(map(str, versions))}")
    if dry_run:
        console.print(f"{unneeded.count} versions would be deleted.")
    else:
        prune.delete(account, unneeded)
        console.print(f"{unneeded.count} versions deleted, {keep} of each kept.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
