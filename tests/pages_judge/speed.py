"""`make pages-judge`: how heavy the first page is, and what Lighthouse says about it."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Response

from local.stack import LocalStack

LEAST = {"performance": 95, "accessibility": 95, "best-practices": 95, "seo": 100}
MOST_BYTES, MOST_REQUESTS = 25_000, 4

_LIGHTHOUSE = Path(sys.prefix) / "pages-judge" / "node_modules" / ".bin" / "lighthouse"
_FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage"
_RUNS, _TRIES = 3, 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_first_visit_is_light(browser: Browser, stack: LocalStack, scheme: str) -> None:
    """In bytes as sent, with headers, and in requests."""
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    # By address: the icon of the tab is the logo, which the browser has by then.
    answers: dict[str, Response] = {}
    page.on("response", lambda answer: answers.update({answer.url: answer}))
    page.goto(stack.api, wait_until="networkidle")
    sizes = [each.request.sizes() for each in answers.values()]
    weight = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
    context.close()
    sys.stderr.write(f"\n{weight} bytes in {len(answers)} requests\n")
    assert 2 <= len(answers) <= MOST_REQUESTS
    assert 0 < weight <= MOST_BYTES


@pytest.mark.parametrize("device", ["mobile", "desktop"])
def test_lighthouse(stack: LocalStack, tmp_path: Path, device: str) -> None:
    """The median of three runs: one alone says more about the machine than about the page."""
    if not _LIGHTHOUSE.exists():
        pytest.skip("Lighthouse is missing: install Node 20.19 or newer, then `make pages-judge`")
    httpx.get(stack.api, timeout=60, trust_env=False)  # the function's start is not the page's
    runs = [_scores(stack.api, device, tmp_path / f"{n}.json") for n in range(_RUNS)]
    median = {name: round(statistics.median(run[name] for run in runs)) for name in LEAST}
    sys.stderr.write(f"\n{device}: {median}\n")
    assert {name: score for name, score in median.items() if score < LEAST[name]} == {}


def _scores(url: str, device: str, report: Path) -> dict[str, float]:
    """The scores of one run. On a busy machine Lighthouse may lose its browser: it is run again."""
    command = [str(_LIGHTHOUSE), url, "--quiet", f"--chrome-flags={_FLAGS}", "--output=json"]
    command += [f"--output-path={report}"] + (["--preset=desktop"] if device == "desktop" else [])
    chrome = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or ""
    for _ in range(_TRIES):
        subprocess.run(command, env=os.environ | {"CHROME_PATH": chrome}, check=False, timeout=300)
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        if found and "runtimeError" not in found:
            scores = {name: found["categories"][name]["score"] * 100 for name in LEAST}
            sys.stderr.write(f"\n{device}: {scores}; {_failed(found)}\n")
            return scores
    raise AssertionError(f"Lighthouse did not come to an end: {found.get('runtimeError')}")


def _failed(report: dict[str, Any]) -> list[str]:
    """The audits that took away something."""
    weighed = {
        each["id"]
        for category in report["categories"].values()
        for each in category["auditRefs"]
        if each["weight"]
    }
    scores = {name: audit["score"] for name, audit in report["audits"].items() if name in weighed}
    return [
        f"{name} {score}" for name, score in scores.items() if score is not None and score < 0.9
    ]
