"""Measures the pages on the local stack: time to first byte, weight and requests, beside budgets.

A page and the API's answers with the same data take turns in many short rounds, because the
machine's speed changes. What counts is how much longer the page takes than these answers do:
HTML, words and pictures, without the queries that both sides make. Bytes are those on the wire,
with headers. A first visit loads the page with its style sheet, script and logo; the next visit
loads the page alone.

    python -m bench.pages [--rounds N]
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from time import perf_counter
from urllib.parse import urljoin

import httpx
from rich.console import Console
from rich.table import Table

from local.gateway.logs import Log
from local.stack import LocalStack
from standin.testing import Control

MOST_MORE_MS = 50
"""How much longer a page may take than the API's answers, at the 95th percentile."""
MOST_BYTES = 25_000
MOST_REQUESTS = 4
EMAIL, PASSWORD = "bench@example.com", "a long password of a bench"
LOGIN = "/app/login"
DAYS = 19
KEPT = "immutable"
"""What the header `Cache-Control` of a file says that is not asked for again."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and the answers of the API that have the same data."""

    path: str
    answers: tuple[str, ...]
    signed_in: bool = True


PAGES = (
    Page("/", ("/plans",), signed_in=False),
    Page("/app/login", ("/health",), signed_in=False),
    Page("/app", ("/dashboard", "/thresholds", "/plans")),
    Page("/app/usage", ("/account/usage", "/dashboard")),
    Page("/app/billing", ("/dashboard", "/invoices")),
    Page("/app/account", ("/account", "/sessions", "/account/mails")),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit loads: bytes on the wire and requests."""

    weight: int
    requests: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured of a page. Times are milliseconds at the 95th percentile."""

    page: float
    answer: float
    first: Visit
    again: Visit


class _Files(HTMLParser):
    """The files that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        found = given.get("src") if tag in ("img", "script") else None
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            found = given.get("href")
        if found:
            self.addresses.add(found)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=60, help="number of rounds (60)")
    options = parser.parse_args(arguments)
    console = Console()
    with _signed_in() as http, console.status("pages and answers in turns"):
        found = {page.path: _measured(http, page, options.rounds) for page in PAGES}
    console.print(_table(found))
    console.print(
        f"Budgets: at most {MOST_MORE_MS} ms more than the API; a first visit of at most"
        f" {MOST_BYTES:,} bytes in {MOST_REQUESTS} requests; one request after that."
    )
    return 0


@contextmanager
def _signed_in() -> Iterator[httpx.Client]:
    """A stack and a client: somebody has used the product for some days, and is signed in."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-pages-") as folder,
        LocalStack(data_dir=Path(folder), log=Log(StringIO())) as stack,
        httpx.Client(base_url=stack.api, timeout=60, trust_env=False) as http,
    ):
        control = Control(stack.commet.removesuffix("/api/v1"))
        user = _joined(http, stack)
        _use(http, control, stack, user)
        form = {"email": EMAIL, "password": PASSWORD}  # its cookie is the API's session, too
        _ok(http.post("/app/login", data=form, headers={"origin": stack.api}))
        yield http
        control.close()


def _joined(http: httpx.Client, stack: LocalStack) -> str:
    account = _ok(http.post("/signup", json={"email": EMAIL, "password": PASSWORD})).json()
    user = str(account["user"]["id"])
    stack.confirm_address(user)
    return user


def _use(http: httpx.Client, control: Control, stack: LocalStack, user: str) -> None:
    """Takes a plan with overage, pays, and uses a metered feature every day."""
    entered = _ok(http.post("/login", json={"email": EMAIL, "password": PASSWORD})).json()
    session = {"authorization": f"Bearer {entered['session']['token']}"}
    plan, feature = _sold(http)
    _ok(http.post("/checkout", json={"plan_code": plan}, headers=session))
    control.pay(str(control.customer(user)["subscriptions"][-1]["id"]))
    control.settle()
    service = {"authorization": f"Bearer {stack.service_key}"}
    for day in range(DAYS):
        event = {"user_id": user, "feature": feature, "quantity": str(100 + day)}
        _ok(http.post("/usage", json=event | {"idempotency_key": f"day-{day}"}, headers=service))
        control.advance(days=1)
    control.settle()


def _sold(http: httpx.Client) -> tuple[str, str]:
    """The codes of a plan that is paid for, and of a feature that it sells beyond its allowance."""
    for plan in _ok(http.get("/plans")).json()["plans"]:
        for feature in plan["features"]:
            if not plan["is_free"] and feature["overage"] and feature["overage"]["enabled"]:
                return str(plan["code"]), str(feature["code"])
    raise RuntimeError("No plan of the local catalogue sells overage.")


def _ok(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400 or answer.headers.get("location", "").startswith(LOGIN):
        raise RuntimeError(f"{answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    return answer


# --- what is measured ---------------------------------------------------------------------------


def _measured(http: httpx.Client, page: Page, rounds: int) -> Found:
    def turn() -> tuple[float, float]:
        shown = _first_byte(http, page.path, signed_in=page.signed_in)
        return shown, sum(_first_byte(http, each) for each in page.answers)

    turn()  # does not count: the functions start and fill their caches
    taken = [turn() for _ in range(rounds)]
    first, again = _visits(http, page)
    return Found(_p95([one for one, _ in taken]), _p95([two for _, two in taken]), first, again)


def _headers(*, signed_in: bool) -> dict[str, str]:
    """What a request says. An empty cookie takes the place of the session's."""
    return {"accept-encoding": "gzip"} | ({} if signed_in else {"cookie": ""})


def _first_byte(http: httpx.Client, path: str, *, signed_in: bool = True) -> float:
    """Milliseconds until the headers of the answer are there."""
    headers = _headers(signed_in=signed_in)
    began = perf_counter()
    with http.stream("GET", path, headers=headers) as answer:
        taken = (perf_counter() - began) * 1000
        answer.read()
    _ok(answer)
    return taken


def _p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


def _visits(http: httpx.Client, visited: Page) -> tuple[Visit, Visit]:
    """The first visit and the next one."""
    page = _ok(http.get(visited.path, headers=_headers(signed_in=visited.signed_in)))
    files = _Files()
    files.feed(page.text)
    loaded = [_ok(http.get(urljoin(visited.path, each))) for each in sorted(files.addresses)]
    asked_again = [one for one in loaded if KEPT not in one.headers.get("cache-control", "")]
    return _visit([page, *loaded]), _visit([page, *asked_again])


def _visit(answers: Sequence[httpx.Response]) -> Visit:
    return Visit(sum(map(_weight, answers)), len(answers))


def _weight(answer: httpx.Response) -> int:
    """The bytes of an answer as they were sent: body and headers."""
    headers = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)
    return answer.num_bytes_downloaded + headers


# --- what is printed ----------------------------------------------------------------------------


def _table(found: dict[str, Found]) -> Table:
    table = Table(title="Pages on the local stack, warm; times at the 95th percentile")
    table.add_column("page")
    for name in (
        "first byte",
        "the API's",
        "more",
        "first visit",
        "requests",
        "after that",
    ):
        table.add_column(name, justify="right")
    for path, each in found.items():
        more = each.page - each.answer
        table.add_row(
            path,
            f"{each.page:.1f} ms",
            f"{each.answer:.1f} ms",
            _marked(f"{more:.1f} ms", more <= MOST_MORE_MS),
            _marked(f"{each.first.weight:,} B", each.first.weight <= MOST_BYTES),
            _marked(str(each.first.requests), each.first.requests <= MOST_REQUESTS),
            _marked(f"{each.again.weight:,} B in {each.again.requests}", each.again.requests == 1),
        )
    return table


def _marked(text: str, is_within: bool) -> str:  # noqa: FBT001 - of a cell
    return f"[green]{text}[/]" if is_within else f"[bold red]{text}, over[/]"


if __name__ == "__main__":
    raise SystemExit(main())
