"""README and docs, pasted: every `sh` block of a page runs as it is printed, in the page's order.

Each page gets a checkout of its own in which `make run` has just become ready, and one bash that
stops at the first command that fails. Nothing is set up between the blocks. The test exchanges one
thing only: addresses that a page prints (127.0.0.1:3000), because the stack is on free ports.

The outcome that a page tells is held too:

- Every curl answers 2xx or 3xx. The last curl of a block may answer the `"status"` that a `json`
  block below it tells.
- The last JSON that a block prints contains the `json` block below it; "…" stands for any value.
- The output of a block begins with the `csv` block below it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from local.ports import Port
from tests.unit.markdown import PAGES, ROOT, Block, blocks

AWS = "needs an AWS account"
TESTS = "runs the tests, this one with them"
OWN = "changes the checkout: tests/e2e/test_build_your_own.py does what the page says in a copy"
DOCKER = "needs a Docker engine: `make sam-local-test` runs the page"
ENDPOINT = "needs an endpoint's id; tests/integration/local/test_operate.py switches one on"
START_SECONDS = 90
PAGE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Exempt:
    """A block that is not run here: where it stands, how it begins, and why."""

    page: str
    heading: str
    begins: str
    why: str


EXEMPT = [
    Exempt(
        "README.md", "Run it", "make run", ".ci/run runs these; `make run` is what pages start on"
    ),
    Exempt("README.md", "Deploy", "make deploy", AWS + "; .ci/run runs DRY_RUN=1"),
    Exempt(
        "clients/python/README.md",
        "usage-billing-client",
        "pip install",
        "tests/clients/python/test_package.py installs it",
    ),
    Exempt(
        "clients/typescript/README.md",
        "usage-billing-client",
        "npm install",
        "tests/clients/typescript/test_client.py installs it",
    ),
    Exempt("docs/aws.md", "One made for you", "aws cloudformation", AWS),
    Exempt("docs/aws.md", "A proxy in front", "APP_SECRET=", AWS),
    Exempt("docs/deploy.md", "Five secrets", "secret() ", AWS),
    Exempt("docs/deploy.md", "Deploy", "make deploy DRY_RUN=1", AWS + "; .ci/run runs DRY_RUN=1"),
    Exempt("docs/deploy.md", "Deploy", "make deploy PARAMETERS=", AWS),
    Exempt("docs/deploy.md", "Deploy", "aws cloudwatch", AWS),
    Exempt("docs/deploy.md", "Mails", "aws sesv2 create-email-identity", AWS),
    Exempt("docs/deploy.md", "Mails", "aws sesv2 put-account-details", AWS),
    Exempt("docs/deploy.md", "A first key for your product", "KEY=", AWS),
    Exempt("docs/deploy.md", "Changing a secret", "aws secretsmanager", AWS),
    Exempt("docs/deploy.md", "Changing a secret", "aws rds-data", AWS),
    Exempt("docs/deploy.md", "The webhook", "aws lambda", AWS),
    Exempt("docs/deploy.md", "Taking it down", "aws secretsmanager", AWS),
    Exempt("docs/operations.md", "The operator's door", "STACK=", AWS),
    Exempt("docs/operations.md", "The mail function's door", "STACK=", AWS),
    Exempt("docs/mail.md", "Mails that come back", "aws sesv2", AWS),
    Exempt(
        "docs/operations.md",
        "usage-drift",
        "stack()",
        "needs a user; tests/integration/local/test_drift.py practises it",
    ),
    Exempt(
        "docs/debugging.md",
        "From an answer to its log lines",
        "make logs",
        "needs an id; tests/integration/local/test_operate.py looks one up",
    ),
    Exempt(
        "docs/debugging.md",
        "Stop inside a function",
        "make debug",
        "waits for a debugger; tests/e2e/gateway/test_debugging.py is one",
    ),
    Exempt("docs/build-your-own.md", "1. Run it", "make run", OWN),
    Exempt("docs/build-your-own.md", "2. Your plans and your currency", "rm -rf", OWN),
    Exempt("docs/build-your-own.md", "3. A function of your own", "make function", OWN),
    Exempt("docs/build-your-own.md", "3. A function of your own", "export API", OWN),
    Exempt("docs/build-your-own.md", "3. A function of your own", "curl", OWN),
    Exempt("docs/build-your-own.md", "3. A function of your own", "make openapi", OWN),
    Exempt(
        "docs/testing-your-product.md",
        "Set up",
        "PYTHONPATH",
        "tests/e2e/test_testing_guide.py runs the tests of the page",
    ),
    Exempt("docs/build-your-own.md", "4. Your backend", "python3 -m venv backend", OWN),
    Exempt("docs/build-your-own.md", "7. Deploy", "make deploy", AWS),
    Exempt("docs/operations.md", "Adopting a customer", "make adopt", "needs a customer of Commet"),
    Exempt("docs/operations.md", "Erasing a user", "make erase", "needs somebody to erase"),
    Exempt("docs/operations.md", "undelivered-events", "ask ", ENDPOINT),
    Exempt("docs/operations.md", "events-failed", "ask ", ENDPOINT),
    Exempt("docs/operations.md", "event-endpoints-off", "make enable-endpoint", ENDPOINT),
    Exempt("docs/operations.md", "failure-queue", "QUEUE=", AWS),
    Exempt("docs/operations.md", "After a bad release", "aws lambda", AWS),
    Exempt("docs/sam-local.md", "With SAM CLI and Docker", "# 1. Postgres", DOCKER),
    Exempt("docs/sam-local.md", "With SAM CLI and Docker", "ARCH=", DOCKER),
    Exempt("docs/sam-local.md", "With SAM CLI and Docker", "LAMBDA=", DOCKER),
    Exempt("docs/sam-local.md", "Schedules", "LAMBDA=", DOCKER),
    Exempt("docs/sam-local.md", "The webhook's own URL", "# WebhookFunction", DOCKER),
    Exempt("docs/sam-local.md", "Stop", "docker compose", DOCKER),
    Exempt("docs/testing.md", "Testing", "make test", TESTS),
    Exempt("docs/testing.md", "Faults that the tests have to notice", "make mutate", TESTS),
    Exempt("docs/deploy.md", "Taking it down", "make delete", AWS),
    Exempt("docs/upgrade.md", "Going back", "RELEASE=", AWS),
    Exempt("docs/upgrade.md", "When a stack is stuck", "aws cloudformation describe", AWS),
    Exempt("docs/upgrade.md", "When a stack is stuck", "aws cloudformation delete", AWS),
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def is_exempt(page: Path, block: Block) -> bool:
    return any(
        (e.page, e.heading) == (name_of(page), block.heading) and block.text.startswith(e.begins)
        for e in EXEMPT
    )


def to_run(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language == "sh" and not is_exempt(page, b)]


GUIDES = [page for page in PAGES if to_run(page)]
# Programs of the reader's own that a page says it needs.
PROGRAMS = {"docs/local-stack.md": ["psql"]}


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout in which `make run` is ready: where it is, and what its stack.json says."""

    place: Path
    facts: dict[str, str]


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """Of links to this one, so that `.local` is its own. Its .venv is the running interpreter's."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)  # root's Postgres runs as somebody else
        for each in ROOT.iterdir():
            if not each.name.startswith("."):
                (place / each.name).symlink_to(each)
        (place / ".venv").mkdir()
        for each in Path(sys.prefix).iterdir():
            if not each.name.startswith(".installed"):
                (place / ".venv" / each.name).symlink_to(each)
        for stamp in ("run", "dev"):
            (place / ".venv" / f".installed-{stamp}").touch()
        with (place / "run.log").open("w") as log:
            process = subprocess.Popen(
                ["make", "run"],
                cwd=place,
                env=environment() | {"PORT": "0", "COMMET_PORT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for(process, place / ".local" / "stack.json")
            yield Checkout(place, json.loads((place / ".local" / "stack.json").read_text()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
            process.wait(timeout=START_SECONDS)
            said = (place / "run.log").read_text(encoding="utf-8")
        assert "Ready." in said
        assert "Stopping." in said


def environment() -> dict[str, str]:
    """A reader's: nothing that chooses a part of the stack, and nothing of a make above this."""
    chosen = (
        "PORT", "COMMET_PORT", "DATA_DIR", "DATABASE_URL", "PG_BIN", "COMMET_API_KEY",
        "COMMET_WEBHOOK_SECRET", "PYTHON", "VENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "API", "KEY",
        "ARGS", "BILLING_URL", "BILLING_KEY",
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if name not in chosen}


def wait_for(process: "subprocess.Popen[bytes]", facts: Path) -> None:
    """Until `make run` is ready, which is when it writes its facts."""
    log = facts.parents[1] / "run.log"
    until = time.monotonic() + START_SECONDS
    while not facts.exists():
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one block printed, and the status of each of its HTTP answers."""

    block: Block
    printed: str
    statuses: list[int]


def paste(page: Path, checkout: Checkout) -> list[Outcome]:
    """Runs a page's blocks in one bash; fails the test at the first command that fails."""
    home = checkout.place / "home"
    home.mkdir()
    # Tells on standard error what was answered, whatever the page does with the answer itself.
    (home / ".curlrc").write_text('write-out = "%{stderr}\\n\x1e%{http_code}\\n"\n')
    mark = "\x1d"
    run = to_run(page)
    script = "".join(f"printf '\\035'; printf '\\035' >&2\n{block.text}\n" for block in run)
    with (home / "printed").open("w+") as printed, (home / "errors").open("w+") as errors:
        process = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", at_addresses(script, checkout.facts)],
            cwd=checkout.place,
            env=environment() | {"HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=PAGE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what a page left in the background
                os.killpg(process.pid, signal.SIGTERM)
        printed.seek(0)
        errors.seek(0)
        outputs, faults = printed.read().split(mark)[1:], errors.read().split(mark)[1:]
    assert code == 0, f"failed:\n{run[len(outputs) - 1].text}\n{outputs[-1]}\n{faults[-1]}"
    return [
        Outcome(block, output, [int(status) for status in re.findall(r"\x1e(\d+)", fault)])
        for block, output, fault in zip(run, outputs, faults, strict=True)
    ]


def at_addresses(script: str, facts: dict[str, str]) -> str:
    """With the printed addresses exchanged for those that were free."""
    with Port(0).listen() as free:
        alone = str(free.getsockname()[1])
    ports = {
        "3000": str(urlsplit(facts["api"]).port),
        "3001": str(urlsplit(facts["commet"]).port),
        "8100": alone,
    }
    return re.sub(
        r"(127\.0\.0\.1:|--port )(3000|3001|8100)\b",
        lambda found: found[1] + ports[found[2]],
        script,
    )


def documents(text: str) -> list[Any]:
    """Every JSON object that a text holds, one after the other."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except ValueError:
            at += 1
    return found


def differing(claimed: Any, found: Any, where: str = "") -> list[str]:
    """Where what was found does not contain what a page claims."""
    if claimed == "…":
        return []
    if isinstance(claimed, dict) and isinstance(found, dict):
        missing = [f"{where}.{name} is missing" for name in claimed if name not in found]
        shared = [name for name in claimed if name in found]
        return missing + [
            line
            for name in shared
            for line in differing(claimed[name], found[name], f"{where}.{name}")
        ]
    if isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        pairs = enumerate(zip(claimed, found, strict=True))
        return [line for i, (c, f) in pairs for line in differing(c, f, f"{where}[{i}]")]
    return [] if claimed == found else [f"{where}: {claimed!r} is claimed, {found!r} was found"]


def claims(page: Path) -> list[tuple[Block, Block]]:
    """The blocks that run, each with the block of output that follows it, if one does."""
    there = blocks(page)
    following = zip(there, [*there[1:], Block("", "", "")], strict=True)
    return [(b, after) for b, after in following if b.language == "sh" and not is_exempt(page, b)]


def check(outcome: Outcome, claimed: Block) -> None:
    calls = len(re.findall(r"\bcurl\b", re.sub(r"#.*", "", outcome.block.text)))
    assert len(outcome.statuses) == calls, outcome
    last = None
    if claimed.language == "json":
        expected = json.loads(claimed.text)
        last = expected.get("status") if isinstance(expected, dict) else None
        printed = documents(outcome.printed)
        assert printed, outcome
        assert differing(expected, printed[-1]) == [], outcome
    if claimed.language == "csv":
        assert outcome.printed.startswith(claimed.text), outcome
    *before, final = outcome.statuses or [200]
    refused = [status for status in before if not 200 <= status < 400]
    assert refused == [], outcome
    assert final == last if isinstance(last, int) else 200 <= final < 400, outcome


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_block_runs_as_it_is_printed(page: Path, checkout: Checkout) -> None:
    """And answers what the page says."""
    for program in PROGRAMS.get(name_of(page), []):
        if not shutil.which(program):
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    outcomes = list(paste(page, checkout))
    assert outcomes
    for outcome, (block, claimed) in zip(outcomes, claims(page), strict=True):
        assert outcome.block == block
        check(outcome, claimed)


def test_the_guides_are_run() -> None:
    """Those that a reader follows on a laptop: an exemption too wide would leave one out."""
    assert {name_of(page) for page in GUIDES} == {
        "README.md",
        "standin/README.md",
        "docs/events.md",
        "docs/local-stack.md",
        "docs/mail.md",
        "docs/subscriptions.md",
        "docs/usage.md",
    }


@pytest.mark.parametrize("exempt", EXEMPT, ids=lambda e: f"{e.page}: {e.begins}")
def test_a_block_that_is_not_run_is_there_and_is_bash(exempt: Exempt) -> None:
    """One block, so that no other is passed over with it; and it can be read by bash at least."""
    (block,) = [
        b
        for b in blocks(ROOT / exempt.page)
        if b.language == "sh" and b.heading == exempt.heading and b.text.startswith(exempt.begins)
    ]
    read = subprocess.run(
        ["bash", "-n", "-c", block.text], capture_output=True, text=True, check=False
    )
    assert read.stderr == ""


class TestDiffering:
    """The comparison itself: a claim that is not met is found."""

    @pytest.mark.parametrize(
        ("claimed", "found"),
        [
            ({"a": 1}, {"a": 2}),
            ({"a": 1}, {"b": 1}),
            ({"a": {"b": "x"}}, {"a": {"b": "y"}}),
            ({"a": [1]}, {"a": [1, 2]}),
            ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}),
            ({"a": None}, {}),
        ],
    )
    def test_a_difference(self, claimed: Any, found: Any) -> None:
        """Of a value, a name, a length."""
        assert len(differing(claimed, found)) == 1

    def test_more_than_is_claimed(self) -> None:
        """A page may leave fields out, and values that differ each time."""
        assert (
            differing({"a": "…", "b": [{"c": 1}]}, {"a": 5, "b": [{"c": 1, "d": 2}], "e": 3}) == []
        )
