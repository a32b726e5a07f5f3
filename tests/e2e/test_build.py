"""What `make build` hands to `sam deploy`: complete, compiled, and running as in Lambda."""

import os
import platform
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from tests.proof.scale import FULL
from tests.unit.cloudformation import TEMPLATE, load, of_type

ROOT = Path(__file__).parents[2]
LAYER = "CommonLayer/python"
MB = 1_000_000

# The machine an ELF file is for, by the number it has at offset 18.
MACHINES = {"x86_64": 0x3E, "arm64": 0xB7}
HOST = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
# Where each is built: arm64 where `sam deploy` looks for it. The other has a tree of its own,
# because SAM CLI keeps one list of what it has built beside each.
PLACES = {"arm64": ".aws-sam/build", "x86_64": ".aws-sam/x86_64/build"}
# `make test` builds for this machine only: a build takes most of a minute.
BUILT = list(PLACES) if FULL else [HOST or "arm64"]

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 13), reason="the artifacts are compiled by the runtime's own Python"
)


def build(architecture: str, place: str) -> Path:
    command = ["make", "build", f"ARCHITECTURE={architecture}", f"BUILD_DIR={place}"]
    # Not what `make test ARGS=...` was given: that is for pytest.
    above = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in above}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / place


@pytest.fixture(scope="module")
def builds() -> dict[str, Path]:
    """Where each architecture was built."""
    return {architecture: build(architecture, PLACES[architecture]) for architecture in BUILT}


@pytest.fixture(params=BUILT)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def artifacts(builds: dict[str, Path], architecture: str) -> Path:
    return builds[architecture]


def size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def pinned(requirements: str) -> set[tuple[str, str]]:
    """Names and versions of packages, as the text of a requirements file has them."""
    pins = set()
    for line in requirements.splitlines():
        if found := re.match(r"([\w.-]+)(\[binary\])?==([\w.]+)", line):
            name = re.sub(r"[-_.]+", "_", found[1]).lower()
            pins |= {(name, found[3])} | ({("psycopg_binary", found[3])} if found[2] else set())
    return pins


def installed(place: Path) -> set[tuple[str, str]]:
    """Names and versions of the packages in a folder."""
    return {
        (re.sub(r"[-_.]+", "_", name).lower(), version)
        for name, version in (
            path.name.removesuffix(".dist-info").rsplit("-", 1)
            for path in place.glob("*.dist-info")
        )
    }


def machines(layer: Path) -> dict[Path, int]:
    """Of every file that is ELF, whatever it is called, the machine it is for."""
    heads = {path: path.read_bytes()[:20] for path in layer.rglob("*") if path.is_file()}
    return {
        path: int.from_bytes(head[18:20], "little")
        for path, head in heads.items()
        if head.startswith(b"\x7fELF")
    }


class TestArtifacts:
    def test_there_is_one_per_function_and_the_layer(self, artifacts: Path) -> None:
        """A function is its app.py, and the packages that it alone needs; the rest is the layer."""
        folders = {path.name for path in artifacts.iterdir() if path.is_dir()}
        functions = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
        assert folders == functions.keys() | {"CommonLayer"}
        folders.remove("CommonLayer")
        assert folders
        for folder in folders:
            place = artifacts / folder
            own = place / "requirements.txt"
            needed = pinned(own.read_text()) if own.exists() else set()
            assert installed(place) == needed, folder
            packages = {name for name, _ in needed}
            sources = {p.relative_to(place) for p in place.rglob("*.py")}
            own_sources = {str(p) for p in sources if p.parts[0] not in packages}
            # The operators' page has the folder of the pages, with another handler.
            is_of_pages = folder in ("PagesFunction", "OpsFunction")
            assert own_sources == {"app.py"} | ({"ops.py"} if is_of_pages else set()), folder

    def test_pages_have_what_they_show_and_jinja2(self, artifacts: Path) -> None:
        """Whatever is in the function's folder, and its packages for that machine."""
        source, place = ROOT / "functions/pages", artifacts / "PagesFunction"
        files = {
            p.relative_to(source)
            for p in source.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        assert {Path("templates/base.html"), Path("assets/app.css")} <= files
        assert {each for each in files if not (place / each).exists()} == set()
        assert {name for name, _ in installed(place)} == {"jinja2", "markupsafe"}

    def test_every_module_is_compiled(self, artifacts: Path) -> None:
        """Lambda's file system cannot be written to: what is not compiled now never will be."""
        sources = list(artifacts.rglob("*.py"))
        assert len(sources) > 500
        missing = [
            source
            for source in sources
            if not (source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc").exists()
        ]
        assert missing == []

    def test_the_layer_is_small(self, artifacts: Path) -> None:
        """45 MB unzipped, 56 MB with what was compiled; a quarter of it is `cryptography`."""
        files = [path for path in (artifacts / "CommonLayer").rglob("*") if path.is_file()]
        assert size([f for f in files if f.suffix != ".pyc"]) <= 45 * MB
        assert size(files) <= 56 * MB

    def test_the_layer_holds_what_the_functions_need_and_no_more(self, artifacts: Path) -> None:
        """boto3 is the runtime's, the official SDK is a test oracle; SQL and CAs are in it."""
        place = artifacts / LAYER
        assert not (place / "boto3").exists()
        assert not (place / "commet").exists()
        billing = place / "billing"
        source = ROOT / "layers" / "common" / "billing"
        expected = {
            p.relative_to(source)
            for p in source.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        built = {
            p.relative_to(billing)
            for p in billing.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        assert built == expected

    def test_every_package_is_there_at_its_version(self, artifacts: Path) -> None:
        """All that is pinned and nothing else, so a build is repeatable."""
        pins = pinned((ROOT / "layers/common/requirements.txt").read_text())
        assert installed(artifacts / LAYER) == pins

    def test_what_is_machine_code_is_for_that_machine(
        self, artifacts: Path, architecture: str
    ) -> None:
        found = machines(artifacts)
        assert len(found) > 10
        assert any("markupsafe" in str(path) for path in found)
        assert set(found.values()) == {MACHINES[architecture]}


@pytest.mark.skipif(not FULL, reason="`make prove` builds for both architectures")
def test_both_architectures_hold_the_same(builds: dict[str, Path]) -> None:
    """File by file: what runs on one runs on the other."""
    modules = {
        architecture: {
            re.sub(r"\.cpython-313-\w+-linux-gnu|\.abi3", "", str(p.relative_to(place / LAYER)))
            for p in (place / LAYER).rglob("*")
            if p.suffix in (".py", ".so", ".sql", ".pem", ".html", ".txt")
            and ".dist-info" not in str(p)
        }
        for architecture, place in builds.items()
    }
    assert any(EXTENSION_SUFFIXES[-1] in name for name in modules["arm64"])
    assert modules["arm64"] == modules["x86_64"]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with what Lambda's own has, the runtime client and boto3, and no more."""
    place = tmp_path_factory.mktemp("runtime")
    python = place / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("-c", ROOT / "requirements" / "constraints.txt", "awslambdaric", "boto3"),
        ],
        check=True,
    )
    return python


@pytest.mark.skipif(
    sys.platform != "linux" or HOST is None, reason="what is built is for Linux on x86-64 or ARM"
)
class TestInTheRuntime:
    def test_it_has_nothing_of_ours(self, runtime: Path) -> None:
        """Otherwise it would prove nothing about the layer."""
        for package in ("pydantic", "httpx", "psycopg", "aws_lambda_powertools", "billing"):
            done = subprocess.run(
                [runtime, "-c", f"import {package}"], cwd="/", capture_output=True, check=False
            )
            assert b"ModuleNotFoundError" in done.stderr, package

    def test_the_end_to_end_tests(self, builds: dict[str, Path], runtime: Path) -> None:
        """Through the gateway: the story and a part of the rest; in `make prove` all of them.

        Never the demo, which starts a stack of its own.
        """
        assert HOST is not None
        stack = "tests/e2e/stack"
        reduced = [
            f"{stack}/test_story.py",
            f"{stack}/test_bad_input.py::TestBodies",
            f"{stack}/test_bad_input.py::TestSessions",
            f"{stack}/test_bad_input.py::TestAddresses",
            f"{stack}/test_webhook_doors.py::test_bytes_that_are_no_text",
            f"{stack}/test_webhook_doors.py::test_hex_is_written_in_two_ways",
        ]
        tests = [stack] if FULL else reduced
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(*tests, "-k", "not TestDemo"),
            ],
            cwd=ROOT,
            env=os.environ
            | {"STACK_TEMPLATE": str(builds[HOST] / "template.yaml"), "STACK_PYTHON": str(runtime)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
