"""`python -m deploy up` deploys the stack, `prune` deletes old versions, `delete` the stack."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deploy import logs, parameters, prune, refusals
from deploy.aws import Account, Deployed
from deploy.build_id import ROOT, build_id
from deploy.errors import DeployError
from deploy.parameters import BUILD_ID, Environment, Parameter
from deploy.plan import Plan, commands

TEMPLATE = ROOT / "template.yaml"
SAMCONFIG = ROOT / "samconfig.toml"

_RUNTIME = (3, 13)
# Lambda keeps this many executions unreserved. So an account with fewer cannot reserve any.
_FEW_AT_ONCE = 100


def build_parser() -> argparse.ArgumentParser:
    """Commands and flags."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up", help="show what a deployment will do and cost, ask for consent, and deploy"
    )
    up.add_argument(
        "parameters", nargs="*", metavar="Name=value", help="parameters of the template"
    )
    up.add_argument(
        "--dry-run", action="store_true", help="show the plan and do nothing; AWS is not called"
    )
    up.add_argument("--yes", action="store_true", help="do not ask; for pipelines")
    down = commands.add_parser("prune", help="delete old versions of functions and layers")
    down.add_argument(
        "--keep", type=_positive, default=3, help="how many versions of each to keep (3)"
    )
    down.add_argument("--dry-run", action="store_true", help="show the versions and delete none")
    gone = commands.add_parser(
        "delete", help="show what goes and what stays, ask for consent, and delete the stack"
    )
    gone.add_argument(
        "--logs",
        choices=("keep", "delete"),
        default="keep",
        help="what becomes of the functions' logs (keep)",
    )
    gone.add_argument("--yes", action="store_true", help="do not ask; for pipelines")
    for each in (up, down, gone):
        each.add_argument(
            "--environment", default="production", help="the environment in samconfig.toml"
        )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code."""
    asked = build_parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        environment = parameters.environment(SAMCONFIG, asked.environment)
        if asked.command == "prune":
            return _prune(console, environment, keep=asked.keep, dry_run=asked.dry_run)
        if asked.command == "delete":
            return _delete(console, environment, logs_too=asked.logs == "delete", ask=not asked.yes)
        chosen = {**environment.parameters, **parameters.given(asked.parameters)}
        if asked.dry_run:
            return _rehearse(console, environment, chosen)
        return _deploy(console, environment, chosen, ask=not asked.yes)
    except DeployError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Stopped:[/] {escape(str(error))}"
        )
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. What AWS has already begun goes on.")
        return 130


def _rehearse(console: Console, environment: Environment, chosen: dict[str, str]) -> int:
    known = parameters.of_template(TEMPLATE)
    # A value that is missing here may be deployed already. If not, the deployment asks for it.
    missing = {n: f"<{n}>" for n, p in known.items() if p.default is None and n not in chosen}
    values = parameters.choose_values(known, chosen, missing, None)
    if missing:
        console.print("Not in samconfig.toml: " + ", ".join(missing) + ".")
        console.print("The first deployment asks for them, and later ones keep their values.")
        console.print("The build id below will change, because it depends on them.")
    _plan(environment, values, None, confirm=True).show(console)
    console.print("\nThis was a dry run: nothing was built or changed, and AWS was not called.")
    return 0


def _deploy(
    console: Console, environment: Environment, chosen: dict[str, str], *, ask: bool
) -> int:
    _check_tools()
    _check_terminal("deploy", ask=ask)
    account = Account(environment.region)
    console.print(f"Account {escape(account.identity())}, region {account.region}.")
    before = account.stack(environment.stack)
    _check_state(before)
    known = parameters.of_template(TEMPLATE)
    deployed = {name: value for name, value in before.parameters.items() if name in known}
    values = parameters.choose_values(known, chosen, deployed, _asking(console) if ask else None)
    refusals.refuse_unverifiable(TEMPLATE, values, account.region)
    plan = _plan(environment, values, before, confirm=ask)
    plan.show(console)
    _warn_of_concurrency(console, account.concurrency())
    if ask and console.input("\nDeploy this? [y/N] ").strip().lower() not in ("y", "yes"):
        console.print("Nothing was deployed.")
        return 1
    for command in plan.commands:
        try:
            _run(command, account.region)
        except DeployError as error:
            raise DeployError(f"{error} {_what_remains(account, before)}") from None
    if not _is_deployed(account, plan):
        console.print("\nNothing was deployed: the stack has not become this build.")
        return 1
    console.print("\nThe stack is deployed. `make prune` deletes versions that nothing uses.")
    return 0


def _plan(
    environment: Environment, values: dict[str, str], before: Deployed | None, *, confirm: bool
) -> Plan:
    parts = [f"{name}={value}" for name, value in values.items()]
    if before and before.status == "UPDATE_ROLLBACK_COMPLETE":
        # The versions that the failed deployment published remain after its rollback, and Lambda
        # never publishes the same version twice. So the next attempt fails too, unless it has
        # another build id.
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
                console.print("This parameter has no default.")

    return ask


def _check_tools() -> None:
    if sys.version_info[:2] != _RUNTIME:
        raise DeployError(
            "The functions are compiled by Python 3.13, and this is Python"
            f" {sys.version_info[0]}.{sys.version_info[1]}."
            " Run: rm -rf .venv && make deploy PYTHON=/path/to/python3.13"
        )
    if _sam() is None:
        raise DeployError("SAM CLI is not installed here. Run: make setup")


def _check_terminal(verb: str, *, ask: bool) -> None:
    if ask and not sys.stdin.isatty():
        raise DeployError(
            f"This is no terminal, so nobody can be asked: pass --yes (make {verb} YES=1)."
        )


def _check_state(stack: Deployed) -> None:
    if stack.status.endswith("_IN_PROGRESS"):
        raise DeployError(
            f"{stack.name} is being changed right now ({stack.status}). Wait until that is done."
        )
    if stack.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
        raise DeployError(
            f"{stack.name} could not be created or deleted ({stack.status}). Its events say why."
            " Then delete the stack: make delete. If that fails, see"
            " docs/upgrade.md, 'When a stack is stuck'."
        )
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise DeployError(
            f"The rollback of {stack.name} failed: see docs/upgrade.md, 'When a stack is stuck'."
        )


def _sam() -> str | None:
    """Returns the path of the pinned SAM CLI beside this interpreter; None if it is not there."""
    return shutil.which("sam", path=str(Path(sys.executable).parent))


def _run(command: Sequence[str], region: str) -> None:
    program = _sam() if command[0] == "sam" else command[0]
    environment = os.environ | {"AWS_DEFAULT_REGION": region, "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run([program or "", *command[1:]], cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        raise DeployError(f"`{' '.join(command[:2])}` failed; see above.")


def _what_remains(account: Account, before: Deployed) -> str:
    """Says what a failed deployment has left in AWS, according to the stack's status."""
    try:
        after = account.stack(before.name)
    except DeployError:
        return f"Nobody knows what was changed: AWS does not say how {before.name} is."
    if (after.status, after.updated) == (before.status, before.updated):
        return f"The stack {before.name} was not changed."
    if after.status in ("ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"):
        return "CloudFormation has rolled back what it had changed, except the tables."
    return (
        f"The status of {before.name} is now {after.status or 'empty: there is no stack'}. See"
        " docs/upgrade.md, 'When a stack is stuck'."
    )


def _is_deployed(account: Account, plan: Plan) -> bool:
    """Returns whether the stack has this build now. SAM also succeeds if a person answers no."""
    now = account.stack(plan.environment.stack)
    return now.parameters.get(BUILD_ID) == plan.build_id


def _warn_of_concurrency(console: Console, limit: int | None) -> None:
    if limit is None or limit >= _FEW_AT_ONCE:
        return
    console.print(
        f"\n[bold]Only {limit} functions run at once[/] in this account and region, all stacks"
        " together. The webhook's URL is public, and anybody who calls it often enough takes all of"
        f" them: then the API answers 503. An account with fewer than {_FEW_AT_ONCE} cannot reserve"
        " enough for the others. Ask AWS for 1,000 (Service Quotas, Lambda, Concurrent executions),"
        " then set WebhookConcurrency."
    )


def _prune(console: Console, environment: Environment, *, keep: int, dry_run: bool) -> int:
    account = Account(environment.region)
    console.print(f"Account {escape(account.identity())}, region {account.region}.")
    stack = account.stack(environment.stack)
    if not stack.exists:
        raise DeployError(f"There is no stack {environment.stack} in this account and region.")
    # A stack that is being rolled back, or has to be, may need any version.
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


def _delete(console: Console, environment: Environment, *, logs_too: bool, ask: bool) -> int:
    """Deletes the stack. Log groups are found by name, so those of a deleted stack are found
    too.
    """
    if _sam() is None:
        raise DeployError("SAM CLI is not installed here. Run: make setup")
    _check_terminal("delete", ask=ask)
    account = Account(environment.region)
    console.print(f"Account {escape(account.identity())}, region {account.region}.")
    stack = account.stack(environment.stack)
    if stack.status.endswith("_IN_PROGRESS"):
        raise DeployError(
            f"{stack.name} is being changed right now ({stack.status}). Wait until that is done."
        )
    kept = logs.find(account, stack.name, TEMPLATE)
    if not stack.exists and not (logs_too and kept):
        raise DeployError(f"There is no stack {stack.name} in this account and region.")
    _say_what_goes(console, stack, kept, logs_too=logs_too)
    if ask and console.input("\nDelete this? [y/N] ").strip().lower() not in ("y", "yes"):
        console.print("Nothing was deleted.")
        return 1
    if stack.exists:
        words = ["sam", "delete", "--stack-name", stack.name, "--region", account.region]
        _run([*words, "--no-prompts"], account.region)
        if account.stack(stack.name).exists:
            raise DeployError(
                f"The stack {stack.name} is still there, and so are its logs: see docs/upgrade.md,"
                " 'When a stack is stuck'."
            )
    if logs_too:
        logs.delete(account, kept)
    console.print("\nDeleted.")
    return 0


def _say_what_goes(
    console: Console, stack: Deployed, kept: Sequence[str], *, logs_too: bool
) -> None:
    if stack.exists:
        console.print(
            f"\nThe stack [bold]{escape(stack.name)}[/] will be deleted: its functions, API, queue,"
            " alarms, the secrets that it made, its access log, and its endpoint at Commet."
        )
    else:
        console.print(f"\nThere is no stack {escape(stack.name)}. Its logs are still there.")
    if logs_too:
        console.print("The functions' logs will be deleted too:")
    else:
        days = stack.parameters.get("LogRetentionDays", "")
        console.print(
            f"The functions' logs stay. Each entry goes{f' after {days} days' if days else ''}, the"
            " empty log groups do not; make delete LOGS=delete deletes both:"
        )
    for name in kept:
        console.print(f"  {escape(name)}")
    console.print(
        "The database with its tables, the secrets that you made, the stack's people secret and the"
        " layer's versions stay."
    )


if __name__ == "__main__":
    sys.exit(main())
