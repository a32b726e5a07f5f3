"""`python -m local`: runs the whole product on this machine."""

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

from local import flags, operate
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
_ABOUT_ACCOUNTS = {
    "end-sessions": "end all sessions of a user",
    "verify-address": "count an address of an account as confirmed",
    "free-address": "take the address from an account, for another one",
}

# Errors that the person at the terminal can solve.
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
    """The parser of all commands and flags. Defaults come from `environment`.

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
    _add_operator_commands(commands)
    flags.add(parser)
    flags.add(run)
    parser.set_defaults(**flags.defaults(environment))
    return parser


def _add_operator_commands(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the commands for a stack that already runs."""
    show = commands.add_parser(
        "show", help="show everything that the running stack has recorded about one user"
    )
    show.add_argument("user", help="our user id, Commet's customer id or the email address")
    show.add_argument("--json", action="store_true", help="print JSON")
    redrive = commands.add_parser("redrive", help="try dead webhooks or parked deliveries again")
    redrive.add_argument("what", nargs="?", default="webhooks", choices=["webhooks", "deliveries"])
    redrive.add_argument("--id", help="only the webhook or delivery with this id")
    redrive.add_argument("--user", help="only those of this user")
    redrive.add_argument("--reason", help="only deliveries parked for this reason")
    sweep = commands.add_parser(
        "sweep", help="have the next run of reconcile read all of Commet's subscriptions"
    )
    forgive = commands.add_parser("forgive", help="end a debt that a user need not pay")
    forgive.add_argument("user", help="our user id")
    forgive.add_argument("debt", type=_debt, help="the number of the debt, or all")
    forgive.add_argument("--author", required=True, help="who decided it")
    forgive.add_argument("--note", required=True, help="why")
    refund = commands.add_parser("refund", help="give a payment back, whole")
    refund.add_argument("transaction", help="Commet's id of the payment")
    refund.add_argument("--link", type=int, help="the number of the payment link that it paid")
    adopt = commands.add_parser("adopt", help="give a customer of Commet to a user")
    adopt.add_argument("user", help="our user id")
    adopt.add_argument("customer", help="Commet's id of the customer (cus_...)")
    adopt.add_argument("--author", required=True, help="who decided it")
    adopt.add_argument("--note", required=True, help="how you know that the customer is this user")
    erase = commands.add_parser("erase", help="erase a user")
    erase.add_argument("user", help="our user id")
    erase.add_argument("--author", required=True, help="who gives the command")
    erase.add_argument("--note", required=True, help="who asked for it; not kept")
    about_accounts = []
    for name, does in _ABOUT_ACCOUNTS.items():
        about = commands.add_parser(name, help=does)
        about.add_argument("user", help="our user id")
        about.add_argument("--author", required=True, help="who decided it")
        about.add_argument("--note", required=True, help="why")
        about_accounts.append(about)
        if name == "verify-address":
            about.add_argument("--address", help="the address, if not the account's own")
    for each in (show, redrive, sweep, forgive, refund, adopt, erase, *about_accounts):
        each.add_argument(
            "--data-dir", type=Path, metavar="DIR", default=argparse.SUPPRESS,
            help="data directory of the running stack (.local)",
        )  # fmt: skip


def _debt(text: str) -> int | str:
    return text if text == "all" else int(text)


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
    """The first signal stops everything in order. A second one ends this process at once."""
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
    """Prints which interpreter runs this, and which one runs the functions if it differs."""
    line = f"Python {platform.python_version()} ({sys.executable})"
    if functions:
        line += f"; the functions run on {functions}"
    console.print(f"[dim]{escape(line)}[/]")


def _introduce(console: Console, stack: LocalStack) -> None:
    """Prints the stack's addresses, and two requests to paste."""
    console.print(f"\n[bold green]Ready.[/]  API      [bold]{stack.api}[/]")
    if stack.uses_standin:
        pages = stack.commet.removesuffix("/api/v1")
        console.print(f"        Commet   {pages}  (a stand-in; look inside at {pages}/_standin)")
    else:
        console.print(f"        Commet   {stack.commet}  (the sandbox)")
        _explain_relay(console, stack)
    console.print(f"        Mailbox  {stack.mailbox}  (mails to users)")
    console.print(f"        Keys     {stack.data_dir / 'stack.json'}\n")
    console.print("Sign up, then list the plans:\n")
    console.print(
        f"  curl {stack.api}/signup -H 'content-type: application/json' \\\n"
        """    -d '{"email": "ada@example.com", "password": "correct horse battery"}'\n"""
        f"  curl {stack.api}/plans\n",
        markup=False,
    )
    console.print("[dim]Code is reloaded when it changes. Ctrl-C stops everything.[/]")


def _explain_relay(console: Console, stack: LocalStack) -> None:
    """Prints how to relay webhooks, because Commet cannot reach this machine."""
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
    console.print("The next run of reconcile begins a sweep.")
    return 0


def _forgive(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "debt", "author", "note")}
    answer = operate.ask(asked.data_dir, {"command": "forgive", **command})
    console.print(f"{answer['forgiven']} debts were forgiven.")
    return 0


def _refund(console: Console, asked: argparse.Namespace) -> int:
    command = {"command": "refund", "transaction": asked.transaction, "link": asked.link}
    answer = operate.ask(asked.data_dir, command)
    console.print(f"Refund {answer['refund']} is {answer['status']}.")
    return 0


def _adopt(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "customer", "author", "note")}
    answer = operate.ask(asked.data_dir, {"command": "adopt", **command})
    state = "is now" if answer["new"] else "was already"
    console.print(f"{answer['adopted']} {state} the customer of {answer['user']}.")
    return 0


def _about_account(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "author", "note")}
    if getattr(asked, "address", None):
        command["address"] = asked.address
    name = asked.command.replace("-", "_")
    answer = operate.ask(asked.data_dir, {"command": name, **command})
    console.print(", ".join(f"{each}: {answer[each]}" for each in answer))
    return 0


def _erase(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "author", "note")}
    answer = operate.ask(asked.data_dir, {"command": "erase", **command})
    console.print(f"{answer['erased']} is erased. What runs at Commet ends within minutes.")
    return 0


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
                confirm=stack.confirm_address,
            ),
            console,
        )
        if code:
            console.print("\n[dim]The last lines of the functions' log:[/]")
            console.print("\n".join(log.getvalue().splitlines()[-_DEMO_LOG_LINES:]), markup=False)
        return code


_COMMANDS = {
    "demo": _demo,
    "show": _show,
    "redrive": _redrive,
    "sweep": _sweep,
    "forgive": _forgive,
    "refund": _refund,
    "adopt": _adopt,
    **dict.fromkeys(_ABOUT_ACCOUNTS, _about_account),
    "erase": _erase,
}


if __name__ == "__main__":
    sys.exit(main())
