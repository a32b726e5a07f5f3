"""What `make build` hands to `sam deploy`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MB = 1_000_000

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 13), reason="the artifacts are compiled by the runtime's own Python"
)


@pytest.fixture(scope="module")
def artifacts() -> Path:
    done = subprocess.run(["make", "build"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / ".aws-sam" / "build"


def size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


class TestArtifacts:
    def test_there_is_one_per_function_and_the_layer(self, artifacts: Path) -> None:
        """A function is its app.py; everything else is in the layer."""
        folders = {path.name for path in artifacts.iterdir() if path.is_dir()}
        assert len(folders) == 12
        assert "CommonLayer" in folders
        for folder in folders - {"CommonLayer"}:
            sources = {p.name for p in (artifacts / folder).rglob("*.py")}
            assert sources == {"app.py"}, folder

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
        """30 MB unzipped, 45 MB with what was compiled."""
        files = [path for path in (artifacts / "CommonLayer").rglob("*") if path.is_file()]
        assert size([f for f in files if f.suffix != ".pyc"]) <= 30 * MB
        assert size(files) <= 45 * MB

    def test_the_layer_holds_what_the_functions_need_and_no_more(self, artifacts: Path) -> None:
        """boto3 is the runtime's, the official SDK is a test oracle; SQL and CAs are in it."""
        place = artifacts / "CommonLayer" / "python"
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
