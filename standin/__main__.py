"""Command line: `python -m standin`, or `commet-standin` where the package is installed."""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import shlex
import signal
import sqlite3
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path

from standin.app import Running, running
from standin.catalogue import DEFAULT_FILE
from standin.settings import Settings
from standin.sold import SoldGoneError

_PARENT_CHECK_SECONDS = 0.5


def build_parser() -> argparse.ArgumentParser:
    """All flags, with what they mean."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="A stand-in for Commet: HTTP API, hosted pages and signed webhooks. It runs in"
        " the foreground until Ctrl-C, and shows what it does at /_standin/.",
        epilog="What is in parentheses is the default.",
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--port", type=int, default=8100, help="port; 0 takes a free one (%(default)s)"
    )
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    where.add_argument(
        "--public-url", default="", metavar="URL",
        help="what the addresses of hosted pages start with (where it listens)",
    )  # fmt: skip
    where.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST",
        help="answer requests for this host, too; can be given several times"
        " (loopback and the host of --public-url are always answered)",
    )  # fmt: skip
    where.add_argument(
        "--data", default=":memory:", metavar="FILE", help="keep state in FILE (in memory)"
    )
    where.add_argument(
        "--api-key", metavar="KEY",
        help="accept this key, ck_sandbox_... or rk_sandbox_... (the kept one, or a new one)",
    )  # fmt: skip
    where.add_argument(
        "--catalogue", type=Path, metavar="FILE", help="plans and features, JSON or YAML (built in)"
    )
    where.add_argument(
        "--currency",
        default="usd",
        type=_currency,
        metavar="CODE",
        help="currency of every price (%(default)s)",
    )
    where.add_argument(
        "--tax-percent", type=_percent, default=Decimal(0), metavar="N",
        help="tax added to every charge (%(default)s)",
    )  # fmt: skip
    _add_time(parser.add_argument_group("time"))
    _add_readings(parser.add_argument_group("where the contract leaves room"))
    process = parser.add_argument_group("process")
    process.add_argument(
        "--json", action="store_true", help="when ready or refused, print one JSON line"
    )
    process.add_argument(
        "--exit-with-parent", action="store_true", help="end when the parent process is gone"
    )
    return parser


def _program() -> str:
    """Returns the name to show in the usage text: the installed command's, else `python -m
    standin`.
    """
    name = Path(sys.argv[0]).name
    return name if name == "commet-standin" else "python -m standin"


def _add_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed", type=_positive, default=1.0, metavar="X",
        help="simulated seconds per second (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--retry-scale", type=_positive, default=1.0, metavar="X",
        help="factor on webhook retry delays; 0.0167 turns minutes into seconds (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--webhook-timeout", type=_positive, default=10.0, metavar="S",
        help="seconds that a webhook's receiver may take (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--usage-lag", type=float, default=0.0, metavar="S",
        help="simulated seconds until tracked usage shows (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--payment-link-days", type=_not_negative, default=0.0, metavar="N",
        help="simulated days until a payment link expires; 0 means never (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--rate-limit", type=int, default=0, metavar="N",
        help="requests per minute, then 429; 0 means no limit (%(default)s)",
    )  # fmt: skip


def _add_readings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--shuffle-seed", type=int, metavar="N",
        help="shuffle the events of one moment (natural order)",
    )  # fmt: skip
    group.add_argument(
        "--repeated-event-id", choices=("conflict", "replay"), default="conflict",
        help="a usage eventId seen before: 409, or the first answer again (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--usage-period", choices=("now", "timestamp"), default="now",
        help="the allowance in which usage with an old timestamp counts (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--repeated-email", choices=("create", "conflict", "link"), default="create",
        help="a second customer with the same email: another one, 409, or the one who has it,"
        " under the new id (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--access-without-subscription",
        choices=("no_active_subscription", "feature_not_in_plan", "subscription_required"),
        default="no_active_subscription",
        help="the error of feature access for a customer without a subscription (%(default)s)",
    )
    group.add_argument(
        "--pending-access", choices=("none", "denied"), default="none",
        help="feature access while the first payment is awaited: as without a subscription, or"
        " every feature, not allowed (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--declined-checkout", choices=("silent", "event"), default="silent",
        help="whether a declined first payment sends payment.failed (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--active-lookup", choices=("any", "live"), default="any",
        help="whether the active subscription can be one that waits for payment (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--state-snapshot", choices=("delivery", "emission"), default="delivery",
        help="when the body of customer.state_changed is computed (%(default)s)",
    )  # fmt: skip


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{3}", text):
        raise argparse.ArgumentTypeError("must be a code of three letters, such as eur")
    return text.lower()


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


def _percent(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError("must be a number") from None
    if not value.is_finite() or not 0 <= value <= 100:
        raise argparse.ArgumentTypeError("must be from 0 to 100")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Returns the settings of a command line. Raises ValueError for a key that no SDK would
    accept.
    """
    key = arguments.api_key
    if key is not None and not key.startswith(("ck_sandbox_", "rk_sandbox_")):
        raise ValueError("the API key must start with ck_sandbox_ or rk_sandbox_")
    return Settings(
        data=arguments.data,
        api_key=key,
        public_url=arguments.public_url,
        allow_hosts=tuple(arguments.allow_host),
        catalogue=arguments.catalogue,
        currency=arguments.currency,
        tax_percent=arguments.tax_percent,
        speed=arguments.speed,
        retry_scale=arguments.retry_scale,
        webhook_timeout=arguments.webhook_timeout,
        usage_lag=arguments.usage_lag,
        rate_limit=arguments.rate_limit,
        shuffle_seed=arguments.shuffle_seed,
        repeated_event_id=arguments.repeated_event_id,
        usage_period=arguments.usage_period,
        repeated_email=arguments.repeated_email,
        access_without_subscription=arguments.access_without_subscription,
        pending_access=arguments.pending_access,
        declined_checkout=arguments.declined_checkout,
        payment_link_days=arguments.payment_link_days,
        active_lookup=arguments.active_lookup,
        state_snapshot=arguments.state_snapshot,
    )


async def _serve(settings: Settings, arguments: argparse.Namespace, parent: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(name, stopping.set)
    async with running(settings, host=arguments.host, port=arguments.port) as standin:
        _calm_the_collector()
        _announce(standin, as_json=arguments.json)
        watch = (
            asyncio.create_task(_watch(parent, stopping)) if arguments.exit_with_parent else None
        )
        await stopping.wait()
        if watch:
            watch.cancel()


def _calm_the_collector() -> None:
    """Makes Python search for reference cycles rarely. Requests create none, and the search
    took a tenth of the time of each request.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _watch(parent: int, stopping: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells us; we have to look
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    stopping.set()


def _announce(standin: Running, *, as_json: bool) -> None:
    facts = {
        "base_url": standin.base_url,
        "api_key": standin.world.api_key,
        "public_url": standin.world.public_url,
    }
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    print(f"Commet stand-in at {facts['base_url']}")
    print(f"  API key  {facts['api_key']}")
    print(f"  inside   {facts['public_url']}/_standin/")
    key = facts["api_key"]
    print(f"  try      curl -H 'x-api-key: {key}' {facts['base_url']}/plans", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs until it is told to stop. Returns the exit code."""
    parent = os.getppid()  # read first, because the parent may have ended before we listen
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(settings_from(arguments), arguments, parent))
    except SoldGoneError as error:
        file = arguments.catalogue or DEFAULT_FILE
        return _refuse(
            f"The catalogue {file} does not fit what was sold and is kept in {arguments.data}:\n"
            f"{error}\nPut it back as it was",
            start_anew=f"rm {shlex.quote(arguments.data)}",
            as_json=arguments.json,
        )
    except sqlite3.Error as error:
        return _refuse(f"{arguments.data}: {error}", as_json=arguments.json)
    except (OSError, ValueError) as error:
        return _refuse(str(error), as_json=arguments.json)
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(message: str, *, start_anew: str | None = None, as_json: bool) -> int:
    """Says why the stand-in does not run. Returns the exit code. The parent prints its own way
    to start anew.
    """
    if as_json:
        print(json.dumps({"error": message, "start_anew": start_anew is not None}), flush=True)
    else:
        way_out = f", or start anew: {start_anew}" if start_anew else ""
        print(f"standin: {message}{way_out}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
