"""`make screenshots`: pictures of the pages for the README and docs, from the running stack.

Somebody has used the product for nineteen days, always the same way.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from local.stack import ROOT, LocalStack
from tests.pages_judge.conftest import CATALOGUE
from tests.pages_judge.people import Member

FOLDER = ROOT / "docs" / "images"
LARGEST = 60_000
QUALITY = 78


@dataclass(frozen=True, slots=True)
class Picture:
    """The upper part of a page."""

    name: str
    path: str
    width: int = 1200
    height: int = 800
    scheme: str = "light"
    signed_in: bool = True


PICTURES = (
    Picture("prices", "/", height=880, signed_in=False),
    Picture("overview", "/app", height=900),
    Picture("overview-dark", "/app", height=900, scheme="dark"),
    Picture("overview-phone", "/app", width=390, height=844),
    Picture("usage", "/app/usage?feature=api_calls"),
    Picture("billing", "/app/billing"),
)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack without the plan whose words are too long."""
    data = Path(tmp_path_factory.mktemp("stack"))
    sold = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    sold["plans"] = [plan for plan in sold["plans"] if plan["code"] != "long_words"]
    sold["features"] = [each for each in sold["features"] if each["id"] != "ftr_long"]
    catalogue = data / "plans.json"
    catalogue.write_text(json.dumps(sold), encoding="utf-8")
    with LocalStack(data_dir=data, catalogue=catalogue) as running:
        yield running


def test_pictures_are_taken(
    browser: Browser, stack: LocalStack, join: Callable[..., Member]
) -> None:
    """Prices, overview, usage and billing in light; the overview also in dark and on a phone."""
    ana = join("usage_pro", email="ana.martins@example.com", name="Ana Martins")
    _use_for_weeks(ana, days=19)
    FOLDER.mkdir(exist_ok=True)
    taken = [_take(browser, stack, ana, picture) for picture in PICTURES]
    sizes = {path.name: path.stat().st_size for path in taken}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def _use_for_weeks(member: Member, *, days: int) -> None:
    """Uses API calls, storage and e-mails, more on some days than on others."""
    chance = random.Random(7)  # noqa: S311 - of pictures
    for day in range(days):
        for feature, usual in (("api_calls", 39_000), ("storage", 6), ("emails", 380)):
            quantity = round(usual * chance.uniform(0.7, 1.3) * (0.5 if day % 7 > 4 else 1))
            assert member.use(str(quantity), feature=feature, key=f"{feature}-{day}") == 202
        member.pass_days(1)
    assert member.http.put("/spend-limit", json={"amount": "100"}).is_success


def _take(browser: Browser, stack: LocalStack, member: Member, picture: Picture) -> Path:
    """Saves a picture, without the bar of the test clock."""
    context = browser.new_context(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme=picture.scheme,  # type: ignore[arg-type]
    )
    if picture.signed_in:
        member.enter(context)
    page = context.new_page()
    page.goto(f"{stack.api}{picture.path}")
    page.evaluate("document.querySelector('.timebar')?.remove()")
    # Chromium can write WebP, which is a third of a PNG; Playwright's own call cannot.
    session = context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    target = FOLDER / f"{picture.name}.webp"
    target.write_bytes(base64.b64decode(taken["data"]))
    context.close()
    return target
