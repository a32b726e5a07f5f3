"""`python -m local`: runs the whole product on this machine."""

import argparse
import contextlib
import io
import os
import platform
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from local import flags, verbs
from local.commet_key import KeyRefusedError
from local.gateway.logs import Log
from local.gateway.template import UnsupportedTemplateError
from local.operate import OperateError
from local.ports import PortTakenError
from local.postgres import PostgresError, PostgresNotFoundError
from local.postgres.account import UnsafePlaceError
from local.stack import TEMPLATE, LocalStack, StackError
from local.standin import StandInError

_BUILT = TEMPLATE.parent / ".aws-sam/build/template.yaml"
_DEMO_LOG_LINES = 30

# Errors that a person at the terminal can solve.
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


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Returns the parser of all commands and flags. Defaults come from `environment`.

    Raises argparse.ArgumentTypeError for a variable that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m local",
        description="Run the whole product on this machine: API, functions, Postgres, Commet.",
        epilog=flags.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="start everything and serve until Ctrl-C (the default)",
        epilog=flags.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add_parser(
        "demo", help="play a customer's whole story, on free ports and with temporary data"
    )
    verbs.add(commands)
    flags.add(parser)
    flags.add(run)
    parser.set_defaults(**flags.defaults(environment))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command. Returns the exit code."""
    try:
        asked = build_parser(os.environ).parse_args(arguments)
    except argparse.ArgumentTypeError as error:  # raised for an environment variable
        print(f"local: in the environment: {error}", file=sys.stderr)
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
    """Handles signals. The first one stops everything in order. A second one ends this process
    at once.
    """
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, lambda *_: os._exit(128 + number))
    raise KeyboardInterrupt


def _run(console: Console, asked: argparse.Namespace) -> int:
    if asked.built and not _BUILT.exists():
        raise StackError("There is no .aws-sam/build yet. Run `make build` first.")
    if asked.catalogue and asked.commet_api_key:
        raise StackError(
            "A catalogue is for the stand-in. With COMMET_API_KEY the plans are Commet's."
        )
    stack = LocalStack(
        data_dir=asked.data_dir,
        port=asked.port,
        commet_port=asked.commet_port,
        database_url=asked.database_url,
        commet_api_key=asked.commet_api_key,
        webhook_secret=asked.webhook_secret,
        template=_BUILT if asked.built else asked.template or TEMPLATE,
        catalogue=asked.catalogue,
        currency=asked.currency,
        commet_options=asked.commet_options,
        parameters=dict(asked.parameters),
        python=asked.python,
        schedule_minute_seconds=asked.schedule_minute_seconds or None,
        fast=asked.fast,
        debug=asked.debug,
        debug_port=asked.debug_port,
        log=Log(raw=asked.verbose),
        say=lambda line: console.print(f"[dim]{escape(line)}[/]"),
    )
    _name_python(console, asked.python)
    console.print("[dim]Starting Postgres, Commet and the functions.[/]")
    try:
        stack.start()
        _introduce(console, stack)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the normal end of a run
            stack.wait()
    finally:
        console.print("\n[dim]Stopping.[/]")
        stack.stop()
    return 0


def _name_python(console: Console, functions: str | None = None) -> None:
    """Prints which interpreter runs this program, and which one runs the functions if it
    differs.
    """
    line = f"Python {platform.python_version()} ({sys.executable})"
    if functions:
        line += f"; the functions run on {functions}"
    console.print(f"[dim]{escape(line)}[/]")


def _introduce(console: Console, stack: LocalStack) -> None:
    """Prints the stack's addresses, and two requests to paste."""
    first = f"API      [bold]{stack.api}[/]"
    if stack.pages:
        first = f"Pages    [bold]{stack.pages}[/]\n        {first}"
    console.print(f"\n[bold green]Ready.[/]  {first}")
    console.print(f"        Docs     {stack.api}/docs  (all routes, and what each error means)")
    if stack.uses_standin:
        pages = stack.commet.removesuffix("/api/v1")
        console.print(f"        Commet   {pages}  (a stand-in; look inside at {pages}/_standin)")
        console.print(escape(f"        Sells    {stack.selling}"))
    else:
        console.print(f"        Commet   {stack.commet}  (the sandbox)")
        _explain_relay(console, stack)
    console.print(f"        Mailbox  {stack.mailbox}  (mails to users)")
    console.print(f"        Events   {stack.events}  (what your product is told, and who got it)")
    console.print(f"        Keys     {stack.data_dir / 'stack.json'}\n")
    console.print("Sign up, then list the plans:\n")
    console.print(
        f"  curl {stack.api}/signup -H 'content-type: application/json' \\\n"
        """    -d '{"email": "ada@example.com", "password": "correct horse battery"}'\n"""
        f"  curl {stack.api}/plans\n",
        markup=False,
    )
    console.print("[dim]Code is reloaded when it changes. Ctrl-C stops everything.[/]")
    console.print("[dim]In another terminal: make logs id=... shows what became of an answer.[/]")


def _explain_relay(console: Console, stack: LocalStack) -> None:
    """Prints how to relay webhooks, because Commet cannot reach this machine."""
    console.print(f"        Webhooks commet listen {stack.function_url}")
    if not stack.webhook_secret:
        console.print(
            "        [yellow]No webhook is accepted yet:[/] restart with the secret that "
            "`commet listen` prints in COMMET_WEBHOOK_SECRET."
        )


def _demo(console: Console, _: argparse.Namespace) -> int:
    # Imported late, because the other commands do not need the demo.
    from local.demo import Addresses
    from local.demo import main as tell

    _name_python(console)
    console.print("[dim]Starting everything on free ports, with temporary data.[/]")
    log = io.StringIO()
    with LocalStack(fast=True, log=Log(log)) as stack:
        code = tell(
            Addresses(
                api=stack.api,
                commet=stack.commet,
                commet_api_key=stack.commet_api_key,
                service_key=stack.service_key,
                mailbox=stack.mailbox,
                posts_here=True,
            ),
            console,
        )
        if code:
            console.print("\n[dim]The last lines of the functions' log:[/]")
            console.print("\n".join(log.getvalue().splitlines()[-_DEMO_LOG_LINES:]), markup=False)
        return code


_COMMANDS = {"demo": _demo, **verbs.COMMANDS}


if __name__ == "__main__":
    sys.exit(main())
