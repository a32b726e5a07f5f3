"""The verbs for a stack that already runs: `python -m local show`, `redrive`, `logs` ...

Most of them are commands to `reconcile` (docs/operations.md): this module reads the command line,
and says in a sentence what was done.
"""

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from local import operate, shown_user
from local.gateway import journal
from local.gateway.logs import readable
from local.operate import OperateError

_LAST_ENTRIES = 40
_ABOUT_ACCOUNTS = {
    "end-sessions": "end all sessions of a user",
    "verify-address": "count an address of an account as confirmed",
    "free-address": "take the address from an account, for another one",
}


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the verbs to the command line."""
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
    compare = commands.add_parser(
        "compare", help="have the next run of reconcile compare all totals with Commet's"
    )
    resolve = commands.add_parser("resolve", help="take a parked delivery off the list")
    resolve.add_argument("user", help="our user id")
    resolve.add_argument("id", help="the event id of the delivery")
    resolve.add_argument("--note", required=True, help="what was done about it")
    resolve.add_argument(
        "--delivered", action="store_true", help="Commet has the delivery after all"
    )
    dispute = commands.add_parser("resolve-dispute", help="end a dispute whose webhook was lost")
    dispute.add_argument("user", help="our user id")
    dispute.add_argument("transaction", help="Commet's id of the payment")
    dispute.add_argument("outcome", choices=["won", "lost"], help="what Commet's dashboard says")
    repair = commands.add_parser("repair", help="replace Commet's totals by ours where they differ")
    repair.add_argument("--user", help="only those of this user")
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
    about_accounts = _add_about_accounts(commands)
    resolve.add_argument("--author", help="who did it")
    about_endpoints = _add_about_endpoints(commands)
    for each in (redrive, sweep, compare, dispute, repair, *about_endpoints, refund):
        each.add_argument("--author", help="who decided it")
        each.add_argument("--note", help="why")
    logs = commands.add_parser(
        "logs", help="show the log lines of a request, or all that name an id or a word"
    )
    logs.add_argument("id", nargs="?", help="the id in the answer; without one, the last lines")
    for each in (
        *(logs, show, redrive, sweep, compare, resolve, dispute, repair, *about_endpoints),
        *(forgive, refund, adopt, erase, *about_accounts),
    ):
        each.add_argument(
            "--data-dir", type=Path, metavar="DIR", default=argparse.SUPPRESS,
            help="data directory of the running stack (.local)",
        )  # fmt: skip


def _add_about_endpoints(
    commands: "argparse._SubParsersAction[Any]",
) -> list[argparse.ArgumentParser]:
    listing = commands.add_parser("endpoints", help="list the endpoints that events are sent to")
    enable = commands.add_parser("enable-endpoint", help="switch an endpoint of events on again")
    redeliver = commands.add_parser("redeliver", help="send events to an endpoint again")
    for each in (enable, redeliver):
        each.add_argument("endpoint", help="the id of the endpoint (ep_...)")
    redeliver.add_argument("--event", help="only the event with this id")
    redeliver.add_argument("--from", metavar="TIME", help="events of this time or later")
    redeliver.add_argument("--to", metavar="TIME", help="events before this time; else until now")
    return [listing, enable, redeliver]


def _add_about_accounts(
    commands: "argparse._SubParsersAction[Any]",
) -> list[argparse.ArgumentParser]:
    added = []
    for name, does in _ABOUT_ACCOUNTS.items():
        about = commands.add_parser(name, help=does)
        about.add_argument("user", help="our user id")
        about.add_argument("--author", required=True, help="who decided it")
        about.add_argument("--note", required=True, help="why")
        if name == "verify-address":
            about.add_argument("--address", help="the address, if not the account's own")
        added.append(about)
    return added


def _debt(text: str) -> int | str:
    return text if text == "all" else int(text)


def _show(console: Console, asked: argparse.Namespace) -> int:
    found = operate.ask(asked.data_dir, {"command": "show", "user": asked.user})
    if asked.json:
        console.print_json(data=found)
    else:
        shown_user.draw(console, found)
    return 0


def _redrive(console: Console, asked: argparse.Namespace) -> int:
    named = {name: value for name in ("id", "user", "reason") if (value := getattr(asked, name))}
    command = {"command": "redrive", "what": asked.what, **named, **_why(asked)}
    answer = operate.ask(asked.data_dir, command)
    console.print(f"{answer['redriven']} {asked.what} will be tried again.")
    return 0


def _why(asked: argparse.Namespace) -> dict[str, str]:
    """Returns who decided a command, and why, as far as the command line says so."""
    return {name: value for name in ("author", "note") if (value := getattr(asked, name))}


def _sweep(console: Console, asked: argparse.Namespace) -> int:
    operate.ask(asked.data_dir, {"command": "sweep", **_why(asked)})
    console.print("The next run of reconcile begins a sweep.")
    return 0


def _compare(console: Console, asked: argparse.Namespace) -> int:
    operate.ask(asked.data_dir, {"command": "compare", **_why(asked)})
    console.print("The next run of reconcile compares all totals with Commet's.")
    return 0


def _resolve(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "id", "note", "delivered")}
    answer = operate.ask(asked.data_dir, {"command": "resolve", **command, **_why(asked)})
    console.print(
        f"Delivery {asked.id} is off the list."
        if answer["resolved"]
        else f"Nothing to do: {asked.user} has no parked delivery {asked.id}."
    )
    return 0


def _resolve_dispute(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "transaction", "outcome")}
    answer = operate.ask(asked.data_dir, {"command": "resolve_dispute", **command, **_why(asked)})
    console.print(
        f"The dispute is over: {asked.outcome}."
        if answer["resolved"]
        else f"Nothing to do: {asked.user} has no open dispute about {asked.transaction}."
    )
    return 0


def _repair(console: Console, asked: argparse.Namespace) -> int:
    only = {"user": asked.user} if asked.user else {}
    answer = operate.ask(asked.data_dir, {"command": "repair_drift", **only, **_why(asked)})
    console.print(
        f"{answer['repairing']} of Commet's totals will be replaced by ours, each as soon as"
        " nothing of its user is in flight."
    )
    return 0


def _endpoints(console: Console, asked: argparse.Namespace) -> int:
    answer = operate.ask(asked.data_dir, {"command": "endpoints", **_why(asked)})
    for each in answer["endpoints"]:
        state = "on" if each["enabled"] else f"off since {each['disabled_at']}"
        said = [each["id"], each["host"], each["description"], state]
        said += [f"by {each['disabled_by']}"] if each["disabled_by"] else []
        said += [f"failing since {each['failing_since']}"] if each["failing_since"] else []
        said += [f"an event waits since {each['waits_since']}"] if each["waits_since"] else []
        console.print("  ".join(filter(None, said)), markup=False, soft_wrap=True)
    if not answer["endpoints"]:
        console.print("There are no endpoints.")
    return 0


def _enable_endpoint(console: Console, asked: argparse.Namespace) -> int:
    command = {"command": "enable_endpoint", "endpoint": asked.endpoint, **_why(asked)}
    answer = operate.ask(asked.data_dir, command)
    console.print(f"{answer['enabled']} is switched on. What waits for it is sent now.")
    return 0


def _redeliver(console: Console, asked: argparse.Namespace) -> int:
    named = {name: value for name in ("event", "from", "to") if (value := getattr(asked, name))}
    command = {"command": "redeliver", "endpoint": asked.endpoint, **named, **_why(asked)}
    answer = operate.ask(asked.data_dir, command)
    console.print(f"{answer['queued']} events will be sent again.")
    return 0


def _forgive(console: Console, asked: argparse.Namespace) -> int:
    command = {name: getattr(asked, name) for name in ("user", "debt", "author", "note")}
    answer = operate.ask(asked.data_dir, {"command": "forgive", **command})
    console.print(f"{answer['forgiven']} debts were forgiven.")
    return 0


def _refund(console: Console, asked: argparse.Namespace) -> int:
    command = {"command": "refund", "transaction": asked.transaction, "link": asked.link}
    answer = operate.ask(asked.data_dir, command | _why(asked))
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


def _logs(console: Console, asked: argparse.Namespace) -> int:
    found = (
        journal.about(asked.data_dir, asked.id)
        if asked.id
        else [*deque(journal.entries(asked.data_dir), maxlen=_LAST_ENTRIES)]
    )
    if not found:
        raise OperateError(f"No log line in {asked.data_dir} has this id.")
    for entry in found:
        text = "\n".join(filter(None, map(readable, entry.text.split("\n"))))
        console.print(f"{entry.at[:23]} {entry.function}", style="dim", markup=False)
        console.print(text, markup=False)
    return 0


COMMANDS: dict[str, Callable[[Console, argparse.Namespace], int]] = {
    "show": _show,
    "redrive": _redrive,
    "sweep": _sweep,
    "compare": _compare,
    "resolve": _resolve,
    "resolve-dispute": _resolve_dispute,
    "repair": _repair,
    "endpoints": _endpoints,
    "enable-endpoint": _enable_endpoint,
    "redeliver": _redeliver,
    "forgive": _forgive,
    "refund": _refund,
    "adopt": _adopt,
    **dict.fromkeys(_ABOUT_ACCOUNTS, _about_account),
    "erase": _erase,
    "logs": _logs,
}
