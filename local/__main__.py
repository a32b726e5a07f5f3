"""`python -m local`: the whole product on this machine."""

import argparse
import contextlib
import io
import os
import platform
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from local import operate
from local.commet_key import KeyRefusedError
from local.gateway.logs import Log
from local.gateway.template import UnsupportedTemplateError
from local.operate import OperateError
from local.ports import Port, PortTakenError
from local.postgres import PostgresError, PostgresNotFoundError
from local.postgres.account import UnsafePlaceError
from local.stack import TEMPLATE, LocalStack, StackError
from local.standin import StandInError

_BUILT = TEMPLATE.parent / ".aws-sam/build/template.yaml"
_DEMO_LOG_LINES = 30

# What goes wrong for reasons the person at the terminal can do something about.
_EXPECTED = (
    KeyRefusedError,
    OperateError,
    PortTakenError,
    PostgresError,
    PostgresNotFoundError,
    StackError,
    StandInError,
    UnsafePlaceError,
    UnsupportedTemplateError,
)

_EPILOG = """\
environment (flags win over it):
  PORT, COMMET_PORT    ports of the API and the stand-in
  DATA_DIR             where data, keys and stack.json are kept
  CATALOGUE            plans and features of yours (JSON) that the stand-in sells
  DATABASE_URL         a Postgres of yours instead of the embedded one; only our tables are made
  PG_BIN               a directory with postgres and initdb instead of the wheel's
  COMMET_API_KEY       a sandbox key: talk to Commet itself instead of the stand-in
  COMMET_WEBHOOK_SECRET  the secret that `commet listen` prints, beside such a key
"""


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """All commands and flags; defaults come from the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m local",
        description="Run the whole product on this machine: API, functions, Postgres, Commet.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="start everything and serve until Ctrl-C (the default)",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add_parser(
        "demo", help="tell the whole story through HTTP, on free ports and throw-away data"
    )
    _add_operator_commands(commands)
    _add_run_flags(parser)
    _add_run_flags(run)
    # Not defaults of the flags: those of `run` would overwrite what was said before it.
    port, commet_port = environment.get("PORT"), environment.get("COMMET_PORT")
    parser.set_defaults(
        port=_port(port) if port else Port(3000, explicit=False),
        commet_port=_port(commet_port) if commet_port else Port(3001, explicit=False),
        data_dir=Path(environment.get("DATA_DIR") or ".local"),
        catalogue=Path(environment["CATALOGUE"]) if environment.get("CATALOGUE") else None,
        schedule_every=2.0,
        built=False,
        python=None,
        verbose=False,
    )
    return parser


def _add_operator_commands(commands: "argparse._SubParsersAction[Any]") -> None:
    """What is asked of a stack that runs already."""
    show = commands.add_parser(
        "show", help="show one user of the running stack: rows, events, what would be done"
    )
    show.add_argument("user", help="our id, Commet's customer id or the email address")
    show.add_argument("--json", action="store_true", help="as JSON")
    redrive = commands.add_parser(
        "redrive", help="try again what was given up: dead webhooks, parked deliveries"
    )
    redrive.add_argument("what", nargs="?", default="events", choices=["events", "deliveries"])
    redrive.add_argument("--id", help="only this one")
    redrive.add_argument("--user", help="only those of this user")
    redrive.add_argument("--reason", help="only deliveries parked for this reason")
    sweep = commands.add_parser("sweep", help="read everything Commet has again, from now on")
    for each in (show, redrive, sweep):
        each.add_argument(
            "--data-dir", type=Path, metavar="DIR", default=argparse.SUPPRESS,
            help="of the running stack (.local)",
        )  # fmt: skip


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--port",
        type=_port,
        help="of the API (3000, or the next free one); 0 takes a free one",
    )
    parser.add_argument(
        "--commet-port",
        type=_port,
        help="of the Commet stand-in (3001, or the next free one)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where data, keys and stack.json are kept (.local)",
    )
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="FILE",
        help="plans and features (JSON) that the stand-in sells instead of its own",
    )
    parser.add_argument(
        "--schedule-every",
        type=float,
        metavar="SECONDS",
        help="how long a minute of the schedules takes (2); 0 fires none",
    )
    parser.add_argument(
        "--built",
        action="store_true",
        default=argparse.SUPPRESS,
        help="serve what `sam build` made (.aws-sam/build) instead of the sources",
    )
    parser.add_argument(
        "--python", metavar="PROGRAM", help="interpreter of the functions (the one running this)"
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show every log line as the functions write it",
    )


def _port(text: str) -> Port:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return Port(number)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; its exit code."""
    try:
        asked = build_parser(os.environ).parse_args(arguments)
    except argparse.ArgumentTypeError as error:  # from the environment
        print(f"local: PORT or COMMET_PORT: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    try:
        return _COMMANDS.get(asked.command, _run)(console, asked)
    except _EXPECTED as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Stopped:[/] {escape(str(error))}"
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """The first signal ends everything in order; a second one does not wait for that."""
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, lambda *_: os._exit(128 + number))
    raise KeyboardInterrupt


def _run(console: Console, asked: argparse.Namespace) -> int:
    if asked.built and not _BUILT.exists():
        raise StackError("There is no .aws-sam/build yet: run `make build` first.")
    if asked.catalogue and os.environ.get("COMMET_API_KEY"):
        raise StackError("A catalogue is the stand-in's; with COMMET_API_KEY Commet has the plans.")
    stack = LocalStack(
        data_dir=asked.data_dir,
        port=asked.port,
        commet_port=asked.commet_port,
        database_url=os.environ.get("DATABASE_URL") or None,
        commet_api_key=os.environ.get("COMMET_API_KEY") or None,
        webhook_secret=os.environ.get("COMMET_WEBHOOK_SECRET") or None,
        template=_BUILT if asked.built else TEMPLATE,
        catalogue=asked.catalogue,
        python=asked.python,
        schedule_minute_seconds=asked.schedule_every or None,
        log=Log(raw=asked.verbose),
        say=lambda line: console.print(f"[dim]{escape(line)}[/]"),
    )
    _name_python(console, asked.python)
    console.print("[dim]Starting Postgres, Commet and the functions.[/]")
    try:
        stack.start()
        _introduce(console, stack)
        with contextlib.suppress(KeyboardInterrupt):  # how a run is meant to end
            stack.wait()
    finally:
        console.print("\n[dim]Stopping.[/]")
        stack.stop()
    return 0


def _name_python(console: Console, functions: str | None = None) -> None:
    """Which interpreter runs this, and which one the functions where that is another."""
    line = f"Python {platform.python_version()} ({sys.executable})"
    if functions:
        line += f"; the functions on {functions}"
    console.print(f"[dim]{escape(line)}[/]")


def _introduce(console: Console, stack: LocalStack) -> None:
    """Addresses, and a first request to paste."""
    console.print(f"\n[bold green]Ready.[/]  API      [bold]{stack.api}[/]")
    if stack.uses_standin:
        pages = stack.commet.removesuffix("/api/v1")
        console.print(f"        Commet   {pages}  (a stand-in; look inside at {pages}/_standin)")
    else:
        console.print(f"        Commet   {stack.commet}  (the sandbox)")
        _explain_relay(console, stack)
    console.print(f"        Keys     {stack.data_dir / 'stack.json'}\n")
    console.print("Sign up, then see what there is to buy:\n")
    console.print(
        f"  curl {stack.api}/signup -H 'content-type: application/json' \\\n"
        """    -d '{"email": "ada@example.com", "password": "correct horse battery"}'\n"""
        f"  curl {stack.api}/plans\n",
        markup=False,
    )
    console.print("[dim]Code is reloaded when it changes. Ctrl-C stops everything.[/]")


def _explain_relay(console: Console, stack: LocalStack) -> None:
    """Commet cannot reach this machine, so its webhooks have to be fetched."""
    console.print(f"        Webhooks commet listen {stack.function_url}")
    if not stack.webhook_secret:
        console.print(
            "        [yellow]No webhook is accepted yet:[/] restart with the secret that "
            "`commet listen` prints in COMMET_WEBHOOK_SECRET."
        )


def _show(console: Console, asked: argparse.Namespace) -> int:
    found = operate.ask(asked.data_dir, {"command": "show", "user": asked.user})
    if asked.json:
        console.print_json(data=found)
    else:
        operate.draw(console, found)
    return 0


def _redrive(console: Console, asked: argparse.Namespace) -> int:
    named = {name: value for name in ("id", "user", "reason") if (value := getattr(asked, name))}
    answer = operate.ask(asked.data_dir, {"command": "redrive", "what": asked.what, **named})
    console.print(f"{answer['redriven']} {asked.what} will be tried again.")
    return 0


def _sweep(console: Console, asked: argparse.Namespace) -> int:
    operate.ask(asked.data_dir, {"command": "sweep"})
    console.print("The next run of reconcile reads everything again.")
    return 0


def _demo(console: Console, _: argparse.Namespace) -> int:
    # Late: the other commands do not need it.
    from local.demo import Addresses
    from local.demo import main as tell

    _name_python(console)
    console.print("[dim]Starting everything on free ports, with throw-away data.[/]")
    log = io.StringIO()
    with LocalStack(fast=True, log=Log(log)) as stack:
        code = tell(
            Addresses(
                api=stack.api,
                commet=stack.commet,
                commet_api_key=stack.commet_api_key,
                service_key=stack.service_key,
            ),
            console,
        )
        if code:
            console.print("\n[dim]The functions' last words:[/]")
            console.print("\n".join(log.getvalue().splitlines()[-_DEMO_LOG_LINES:]), markup=False)
        return code


_COMMANDS = {"demo": _demo, "show": _show, "redrive": _redrive, "sweep": _sweep}


if __name__ == "__main__":
    sys.exit(main())
