"""`pip install ./standin`: a program of its own, complete without the rest of the repository."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "standin"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package was installed, without the packages it needs: those are here already."""
    place = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", str(place), str(FOLDER)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def environment(installed: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(installed)}


def test_every_file_of_the_program_is_in_it(installed: Path) -> None:
    """Pages and the catalogue too; and nothing that only builds it."""

    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path.relative_to(folder)) for path in found}

    around = {"LICENSE", "README.md", "pyproject.toml", "requirements.txt"}
    assert files(installed / "standin") == files(FOLDER) - around
    assert "pages/templates/checkout.html" in files(installed / "standin")


def test_its_command_serves_from_anywhere(installed: Path, tmp_path: Path) -> None:
    """Plans from the catalogue, and a page from its template."""
    command = [str(installed / "bin" / "commet-standin"), "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(installed), stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            facts = json.loads(running.stdout.readline())
            key = {"x-api-key": facts["api_key"]}
            plans = httpx.get(f"{facts['base_url']}/plans", headers=key).json()["data"]
            assert "usage_pro" in {plan["code"] for plan in plans}
            assert httpx.get(f"{facts['public_url']}/_standin/").status_code == 200
        finally:
            running.terminate()
    assert running.returncode == 0


def test_its_help_names_the_command(installed: Path, tmp_path: Path) -> None:
    """Not the module it happens to be."""
    help_text = subprocess.run(
        [str(installed / "bin" / "commet-standin"), "--help"],
        cwd=tmp_path, env=environment(installed), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert help_text.startswith("usage: commet-standin ")


def test_it_needs_the_versions_that_the_project_is_tested_with() -> None:
    """Named once, in its requirements; those of its tests' helper beside them."""
    constraints = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^[^#\s]+==\S+$", constraints, re.MULTILINE))
    text = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
    needed = [line for line in text.splitlines() if not line.startswith("#")]
    needed += [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    assert len(needed) == 5
    assert set(needed) <= pinned


def test_it_has_the_version_and_the_licence_of_the_project() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("version", "license", "requires-python"):
        assert PROJECT[name] == whole[name], name
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
