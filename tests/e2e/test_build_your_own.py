"""docs/build-your-own.md, done in a copy: the function, the plans, the client, a month."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.new_function import NewFunctionError, write
from tests.proof.scale import FULL

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "build-your-own.md").read_text(encoding="utf-8")
PARTS = (
    "bench", "clients", "deploy", "docs", "functions", "layers", "local", "requirements", "standin",
    "tests",
)  # fmt: skip
NEW = ("functions/summarize/app.py", "tests/integration/functions/test_summarize.py")
# Those that know all functions.
SUITES = (
    "tests/unit/test_template.py",
    "tests/unit/test_template_alarms.py",
    "tests/unit/test_template_environment.py",
    "tests/unit/test_template_parameters.py",
    "tests/unit/test_template_permissions.py",
    "tests/unit/test_imports.py",
    "tests/unit/test_privileges.py",
    "tests/unit/deploy/test_costs.py",
    "tests/unit/local/test_openapi_words.py",
)
PRODUCT = '''
"""The product: its plans, its function and its backend together."""

from pathlib import Path

import pytest
from usage_billing import Billing

from local.testing import RefusedError, advance, stack, subscribe, user  # noqa: F401


@pytest.fixture(scope="session")
def stack_options():
    return {"catalogue": Path("plans.yaml"), "currency": "eur"}


def summarize(user, key):
    body = {"user_id": user.id, "text": "First. Second.", "idempotency_key": key}
    return user.stack.ask("POST", "/summarize", body)


def test_the_function(user, subscribe):
    subscribe(user, "free")
    for number in range(5):
        assert summarize(user, f"s-{number}") == {"result": "First.", "quantity": "1"}
    with pytest.raises(RefusedError, match="limit_reached"):
        summarize(user, "s-5")
    assert user.used("summaries") == 5


def test_the_backend(stack, user, subscribe):
    subscribe(user, "team")
    with Billing(stack.api, stack.service_key) as billing:
        with billing.reserve(user.id, "summaries", 1, key="summary-2") as held:
            held.confirm(1)
        assert billing.plans()
    assert user.used("summaries") == 1
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout in which `make function name=summarize feature=summaries` has been run."""
    place = tmp_path_factory.mktemp("product")
    for name in PARTS:
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", "*.svg")
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, place)
    run(place, "-m", "local.new_function", "summarize", "--feature", "summaries")
    run(place, "-m", "local.openapi", "--write")
    run(place, "-m", "deploy.costs", "--write")
    yield place
    shutil.rmtree(place)


def run(place: Path, *arguments: str) -> str:
    """What Python says in the copy. Fails where it fails."""
    path = os.pathsep.join(
        [str(place), str(place / "layers/common"), str(place / "clients/python")]
    )
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pytest_in(place: Path, *arguments: str) -> str:
    return run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def test_its_own_tests_pass_as_written(copy: Path) -> None:
    assert "5 passed" in pytest_in(copy, NEW[1])


def test_every_suite_that_knows_all_functions_passes(copy: Path) -> None:
    """The template's, the roles', the document's. `make test` runs what they say of this one."""
    of_this_one = () if FULL else ("-k", "summarize")
    assert "passed" in pytest_in(copy, *SUITES, *of_this_one)


def test_it_is_formatted_linted_and_typed(copy: Path) -> None:
    run(copy, "-m", "ruff", "format", "--check", *NEW)
    run(copy, "-m", "ruff", "check", "--no-cache", *NEW)
    run(copy, "-m", "mypy", NEW[0])
    run(copy, "-m", "local.openapi", "--check")


def test_the_product_works(copy: Path) -> None:
    """The plans of the page in euros, the function, the Python client, and a month."""
    [plans] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (copy / "plans.yaml").write_text(plans, encoding="utf-8")
    [month] = [
        code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def " in code
    ]
    (copy / "test_product.py").write_text(f"{PRODUCT}\n\n{month}", encoding="utf-8")
    assert "3 passed" in pytest_in(copy, "test_product.py")


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize("name", ["Sum", "sum-up", "2sum", "", "sum__up", "../x"])
    def test_a_name(self, name: str) -> None:
        with pytest.raises(NewFunctionError, match="is no name"):
            write(ROOT, name, "storage")

    @pytest.mark.parametrize("name", ["portal", "usage", "signup"])
    def test_what_is_there(self, name: str) -> None:
        """By its name, or by its route."""
        with pytest.raises(NewFunctionError, match="already"):
            write(ROOT, name, "storage")

    def test_a_feature(self) -> None:
        with pytest.raises(NewFunctionError, match="no code of a feature"):
            write(ROOT, "sum_up", "Storage")

    def test_a_template_that_looks_otherwise(self, tmp_path: Path) -> None:
        """Nothing is written then."""
        (tmp_path / "docs").mkdir()
        text = (ROOT / "template.yaml").read_text(encoding="utf-8")
        changed = text.replace("  UnsentMailAlarm:\n", "  Other:\n")
        (tmp_path / "template.yaml").write_text(changed, encoding="utf-8")
        with pytest.raises(NewFunctionError, match="is not where it was"):
            write(tmp_path, "sum_up", "storage")
        assert (tmp_path / "template.yaml").read_text(encoding="utf-8") == changed
        assert not (tmp_path / "functions").exists()
