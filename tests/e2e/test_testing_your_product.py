"""docs/testing-your-product.md: its files, as they stand there, are a test suite that passes."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing-your-product.md"


def files() -> dict[str, str]:
    """Each block of code with a file's name in its first line."""
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return {block.splitlines()[0].removeprefix("# "): block for block in blocks}


def test_its_examples_pass(tmp_path: Path) -> None:
    """In one run, with one stack: months of billing in seconds."""
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--rootdir", str(tmp_path), "--durations", "5", str(tmp_path)),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'layers/common'}"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(text.count("\ndef test_") for text in files().values())
    assert f"{count} passed" in done.stdout
