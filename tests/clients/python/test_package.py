"""`pip install ./clients/python`: the client alone, without the rest of the repository."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "clients" / "python"


def test_it_is_installed_with_its_types(tmp_path: Path) -> None:
    """Without the packages it needs: those are here already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run(
        [*command, str(tmp_path), str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sources = {path.name for path in (FOLDER / "usage_billing").glob("*") if path.is_file()}
    installed = {path.name for path in (tmp_path / "usage_billing").glob("*") if path.is_file()}
    assert "py.typed" in installed
    assert installed == sources
    said = subprocess.run(
        [sys.executable, "-c", "import usage_billing; print(usage_billing.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith(str(tmp_path))
