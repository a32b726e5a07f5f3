"""One stack with plans of its own for all judges, a browser, and people who use the product."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from local.stack import LocalStack
from standin.testing import Control
from tests.pages_judge.people import Member
from tests.standin.pages.conftest import browser  # noqa: F401 - fixture
from tests.visitor import PATIENCE, errors_of

OPERATOR = "operator@example.com"
CATALOGUE = Path(__file__).with_name("catalogue.json")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each judge an hour: some read a hundred states."""
    for item in items:
        item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    parameters = {
        "SupportEmail": "help@example.com",
        "SignUpsPerHour": "1000",
        "Operators": OPERATOR,
    }
    data = Path(tmp_path_factory.mktemp("stack"))
    with LocalStack(data_dir=data, catalogue=CATALOGUE, parameters=parameters) as running:
        # The functions' start is not the pages', and on a busy machine it takes long.
        httpx.get(running.api, timeout=120, trust_env=False).raise_for_status()
        yield running


@pytest.fixture(scope="session")
def commet(stack: LocalStack) -> Iterator[Control]:
    """The stand-in's control endpoints."""
    control = Control(stack.commet.removesuffix("/api/v1"))
    yield control
    control.close()


@pytest.fixture(autouse=True)
def _well_behaved(commet: Control) -> Iterator[None]:
    yield
    commet.clear_faults()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:  # noqa: F811
    """A browser of somebody's own, which fails the test on any error of a page."""
    opened = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened.set_default_timeout(PATIENCE)
    errors = errors_of(opened)
    yield opened
    opened.close()
    assert errors == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def join(stack: LocalStack, commet: Control) -> Iterator[Callable[..., Member]]:
    """Makes people with an account, whose address is confirmed, and with a plan if one is named."""
    clients: list[httpx.Client] = []

    def new(plan: str = "", *, email: str = "", name: str = "Ana Ruiz") -> Member:
        client = httpx.Client(base_url=stack.api, timeout=60, trust_env=False)
        clients.append(client)
        member = Member(
            stack, commet, client, email or f"member-{next(_numbers)}@example.com", name
        )
        if plan:
            member.subscribe(plan)
        return member

    yield new
    for client in clients:
        client.close()
