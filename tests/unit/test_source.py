"""The permission and alarm tests read source; this holds what they read by."""

from pathlib import Path

import pytest

from tests.unit.cloudformation import ROOT
from tests.unit.source import BILLING, module, modules_of


class TestModulesOf:
    def test_it_follows_imports_through_packages_and_into_functions(self, tmp_path: Path) -> None:
        """A late import counts: the code may run, so its permissions must be there."""
        app = ROOT / "functions" / "deliver_usage" / "app.py"
        found = {path.relative_to(BILLING) for path in modules_of(app) - {app}}
        assert {Path("wiring.py"), Path("errors.py")} <= found
        late = tmp_path / "app.py"
        late.write_text("def handler():\n    from billing import wiring\n")
        assert modules_of(late) >= {late, BILLING / "wiring.py", BILLING / "errors.py"}

    @pytest.mark.parametrize(
        "line",
        ["from billing import nowhere", "from billing.nowhere import x", "import billing.nowhere"],
    )
    def test_a_module_that_is_not_there_is_an_error(self, tmp_path: Path, line: str) -> None:
        """Looking at fewer modules would make every test that follows them hold less."""
        app = tmp_path / "app.py"
        app.write_text(line)
        with pytest.raises(FileNotFoundError, match=r"billing\.nowhere"):
            modules_of(app)

    def test_every_module_of_the_layer_is_found_by_its_name(self) -> None:
        paths = sorted(BILLING.rglob("*.py"))
        assert len(paths) > 50
        for path in paths:
            name = ".".join(path.relative_to(BILLING.parent).with_suffix("").parts)
            assert module(name.removesuffix(".__init__")) == path
