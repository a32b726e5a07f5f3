"""What `make test-pythons` runs on every Python: no handler is forgotten, and none is run twice."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from local.openapi.operations import phrase

ROOT = Path(__file__).parents[2]
INTEGRATION = ROOT / "tests" / "integration"


def functions_of(path: Path) -> set[str]:
    """The functions whose `app` a module of tests imports, or calls through a helper."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        found |= {name.split(".")[1] for name in names if name.startswith("functions.")}
        for helper in ("calling", "visiting"):
            if f"tests.integration.functions.{helper}" in names:
                found |= functions_of(INTEGRATION / "functions" / f"{helper}.py")
    return found


def is_marked(path: Path) -> bool:
    return "\npytestmark = pytest.mark.handlers\n" in path.read_text(encoding="utf-8")


class TestHandlerTests:
    def test_whoever_imports_a_function_is_marked(self) -> None:
        """An unmarked module would not run on the other Pythons."""
        modules = sorted(INTEGRATION.rglob("test_*.py"))
        wrong = [m.name for m in modules if bool(functions_of(m)) != is_marked(m)]
        assert wrong == []

    def test_every_function_is_invoked(self) -> None:
        """By a handler test."""
        invoked = set().union(*(functions_of(m) for m in INTEGRATION.rglob("test_*.py")))
        there = {app.parent.name for app in ROOT.glob("functions/*/app.py")}
        assert len(there) > 10
        assert there - invoked == set()


class TestWords:
    def test_the_words_for_a_status_are_the_same_on_every_python(self) -> None:
        """The OpenAPI document has them, and http.HTTPStatus before 3.13 has older ones."""
        assert [phrase(status) for status in (409, 413, 422)] == [
            "Conflict",
            "Content Too Large",
            "Unprocessable Content",
        ]


class TestPythons:
    """tests/pythons.sh, which is `make test-pythons`."""

    def test_a_version_that_is_not_installed_is_named(self) -> None:
        """It is neither tested nor passed over in silence."""
        ran = subprocess.run(
            [ROOT / "tests" / "pythons.sh", "3.1"], capture_output=True, text=True, check=True
        )
        assert "Python 3.1: not found, not tested" in ran.stdout
        assert "nothing was tested" in ran.stdout

    def test_what_only_has_the_name_is_passed_over(self, tmp_path: Path) -> None:
        """A shim that does not run, a Python of another version: the next on PATH is taken."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        folders = [tmp_path / name for name in ("broken", "other", "right")]
        texts = [
            "#!/bin/sh\nexit 127\n",
            "#!/bin/sh\nexec " + sys.executable + " -c 'raise SystemExit(1)'\n",
            f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        ]
        for folder, text in zip(folders, texts, strict=True):
            folder.mkdir()
            program = folder / f"python{version}"
            program.write_text(text)
            program.chmod(0o755)
        make = folders[0] / "make"
        make.write_text('#!/bin/sh\necho "make $*"\n')
        make.chmod(0o755)
        path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
        ran = subprocess.run(
            [ROOT / "tests" / "pythons.sh", version],
            env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"Python {version}: {sys.executable}" in ran.stdout
        verbs = [line.split()[3] for line in ran.stdout.splitlines() if line.startswith("make ")]
        assert verbs == ["setup", "demo", "test", "test"]
        assert f"VENV=.venv-{version} PYTHON={sys.executable}" in ran.stdout
        assert f"Passed on Python {version}" in ran.stdout

    def test_what_fails_is_named_and_fails_the_verb(self, tmp_path: Path) -> None:
        """The other tests still run; in the end the verb says which failed."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        (tmp_path / f"python{version}").symlink_to(sys.executable)
        make = tmp_path / "make"
        make.write_text('#!/bin/sh\ncase "$*" in *demo*) exit 1;; esac\necho "make $*"\n')
        make.chmod(0o755)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        ran = subprocess.run(
            [ROOT / "tests" / "pythons.sh", version],
            env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert f"Failed on Python {version}: demo" in ran.stdout
        assert ran.stdout.count("make VENV") == 3
        assert "Passed" not in ran.stdout
