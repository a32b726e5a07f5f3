"""The digest that makes a deployment publish new versions."""

import shutil
from pathlib import Path

import pytest

from deploy.build_id import PARTS, ROOT, build_id


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tmp_path / part)
        else:
            shutil.copy(ROOT / part, tmp_path / part)
    return tmp_path


class TestBuildId:
    def test_it_is_one_the_template_takes(self, tree: Path) -> None:
        """The same for the same tree, wherever that is."""
        assert len(build_id(tree)) == 16
        assert set(build_id(tree)) <= set("0123456789abcdef")
        assert build_id(tree) == build_id(ROOT)

    @pytest.mark.parametrize(
        "changed",
        [
            "layers/common/billing/usage/ledger.py",
            "functions/webhook/app.py",
            "template.yaml",
        ],
    )
    def test_an_edit_changes_it(self, tree: Path, changed: str) -> None:
        """Committed or not."""
        before = build_id(tree)
        with (tree / changed).open("a") as file:
            file.write("# edited\n")
        assert build_id(tree) != before

    def test_a_parameter_changes_it(self, tree: Path) -> None:
        """SAM publishes nothing new for another parameter by itself. Their order means nothing."""
        one = build_id(tree, ["PastDueHasAccess=true", "A=1"])
        assert one != build_id(tree, ["PastDueHasAccess=false", "A=1"])
        assert one == build_id(tree, ["A=1", "PastDueHasAccess=true"])

    def test_what_python_compiles_does_not(self, tree: Path) -> None:
        before = build_id(tree)
        (tree / "functions" / "webhook" / "__pycache__").mkdir(exist_ok=True)
        (tree / "functions" / "webhook" / "__pycache__" / "app.pyc").write_bytes(b"x")
        assert build_id(tree) == before

    def test_an_incomplete_tree_has_none(self, tree: Path) -> None:
        """Better no digest than that of nothing."""
        shutil.rmtree(tree / "layers")
        with pytest.raises(FileNotFoundError):
            build_id(tree)
