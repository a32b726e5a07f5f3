"""The flags and environment variables of `python -m local run`. A flag overrides its variable.

Each option of `LocalStack` has a flag with its name; tests/unit/local/test_command_line.py compares
them.
"""

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from local.ports import Port

EPILOG = """\
environment variables (a flag overrides its variable):
  PORT, COMMET_PORT    ports of the API and the stand-in
  DATA_DIR             directory of the data, the keys and stack.json
  CATALOGUE            YAML or JSON file with your own plans and features for the stand-in to sell
  CURRENCY             the currency of all prices, such as eur
  PARAMETERS           parameters of template.yaml: "RefuseDebtors=false ProductName='My product'"
  COMMET_OPTIONS       further flags of the stand-in: "--tax-percent 19"
  VERBOSE              with 1, print every log line as the functions write it
  DATABASE_URL         your own Postgres instead of the embedded one; only our tables are created
  PG_BIN               directory with postgres and initdb, instead of the wheel's
  COMMET_API_KEY       a sandbox key, to use Commet itself instead of the stand-in
  COMMET_WEBHOOK_SECRET  the secret that `commet listen` prints; needed with COMMET_API_KEY

Other programs on this machine can read flags. So keys and passwords are better given in variables.
"""


def defaults(environment: Mapping[str, str]) -> dict[str, object]:
    """Returns the value of each option that no flag gives.

    These are not defaults of the flags, because the defaults of `run` would overwrite flags that
    were given before the word `run`. Raises argparse.ArgumentTypeError.
    """
    port, commet_port = environment.get("PORT"), environment.get("COMMET_PORT")
    catalogue = environment.get("CATALOGUE")
    return {
        "port": to_port(port) if port else Port(3000, explicit=False),
        "commet_port": to_port(commet_port) if commet_port else Port(3001, explicit=False),
        "data_dir": Path(environment.get("DATA_DIR") or ".local"),
        "catalogue": Path(catalogue) if catalogue else None,
        "currency": _currency(environment.get("CURRENCY") or "usd"),
        "parameters": [_parameter(each) for each in shlex.split(environment.get("PARAMETERS", ""))],
        "commet_options": shlex.split(environment.get("COMMET_OPTIONS", "")),
        "database_url": environment.get("DATABASE_URL") or None,
        "commet_api_key": environment.get("COMMET_API_KEY") or None,
        "webhook_secret": environment.get("COMMET_WEBHOOK_SECRET") or None,
        "schedule_minute_seconds": 2.0,
        "template": None,
        "built": False,
        "python": None,
        "fast": False,
        "debug": None,
        "debug_port": 5678,
        "verbose": environment.get("VERBOSE", "0") not in {"", "0", "no", "false"},
    }


def add(parser: argparse.ArgumentParser) -> None:
    """Adds all flags to a parser."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--port", type=to_port,
        help="port of the API (3000, or the next free one); 0 takes any free port",
    )  # fmt: skip
    parser.add_argument(
        "--commet-port", type=to_port,
        help="port of the Commet stand-in (3001, or the next free one)",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR",
        help="directory of the data, the keys and stack.json (.local)",
    )  # fmt: skip
    _add_what_is_sold(parser)
    parser.add_argument(
        "--parameter", dest="parameters", action="append", type=_parameter, metavar="NAME=VALUE",
        help="a parameter of template.yaml, such as PastDueHasAccess=false; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--database-url", metavar="URL",
        help="your own Postgres instead of the embedded one; only our tables are created in it",
    )  # fmt: skip
    parser.add_argument(
        "--schedule-every", dest="schedule_minute_seconds", type=float, metavar="SECONDS",
        help="how many seconds a minute of the schedules takes (2); with 0 no schedule fires",
    )  # fmt: skip
    parser.add_argument(
        "--built", action="store_true", default=argparse.SUPPRESS,
        help="serve the output of `sam build` (.aws-sam/build) instead of the sources",
    )  # fmt: skip
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="serve this SAM template (template.yaml)"
    )
    parser.add_argument(
        "--python", metavar="PROGRAM", help="interpreter of the functions (default: this one)"
    )
    parser.add_argument(
        "--fast", action="store_true", default=argparse.SUPPRESS,
        help="let Postgres lose data in a power cut; tests start and write faster so",
    )  # fmt: skip
    parser.add_argument(
        "--debug", metavar="FUNCTION",
        help="have this function (track_usage, say) wait for a debugger, without limits of time",
    )  # fmt: skip
    parser.add_argument(
        "--debug-port", type=int, metavar="PORT", help="where it waits for the debugger (5678)"
    )
    parser.add_argument(
        "--verbose", action="store_true", default=argparse.SUPPRESS,
        help="print every log line as the functions write it",
    )  # fmt: skip


def _add_what_is_sold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue", type=Path, metavar="FILE",
        help="YAML or JSON file with plans and features for the stand-in to sell, not its own",
    )  # fmt: skip
    parser.add_argument(
        "--currency", type=_currency, metavar="CODE", help="the currency of all prices (usd)"
    )
    parser.add_argument(
        "--commet-option", dest="commet_options", action="append", metavar="FLAG",
        help="a further flag of the stand-in, such as --commet-option=--tax-percent=19; can be"
        " repeated (`make standin ARGS=--help` lists them)",
    )  # fmt: skip
    parser.add_argument(
        "--commet-api-key", metavar="KEY",
        help="a sandbox key, to use Commet itself instead of the stand-in",
    )  # fmt: skip
    parser.add_argument(
        "--webhook-secret", metavar="SECRET",
        help="the secret that `commet listen` prints; needed with --commet-api-key",
    )  # fmt: skip


def to_port(text: str) -> Port:
    """Returns the port in a text. Raises argparse.ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return Port(number)


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a currency, such as eur")
    return text.lower()


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9]+", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
