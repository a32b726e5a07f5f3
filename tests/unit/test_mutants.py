"""The list of faults fits the project, and the runner says of each fault what became of it."""

import re
import textwrap
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.__main__ import report
from tests.mutants.catalogue import Mutant, NotAMutant, read
from tests.mutants.runner import ROOT, Outcome, Scratch, Verdict

MUTANTS = read()


@cache
def text_of(path: str) -> str:
    """A file of the project. Hundreds of mutants share a few files."""
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def names_in(path: str) -> set[str]:
    """The classes and functions that a file of the project defines."""
    return set(re.findall(r"(?:class|def) (\w+)", text_of(path)))


class TestCatalogue:
    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
    def test_it_fits_the_project(self, mutant: Mutant) -> None:
        """Whoever changes the text changes the entry, and not only whoever runs `make mutate`."""
        text = text_of(mutant.file)
        assert mutant.applied_to(text) != text
        assert mutant.breaks.endswith(".")
        assert mutant.tests
        for test in mutant.tests:
            path, *names = re.sub(r"\[.*", "", test).split("::")
            assert (ROOT / path).exists(), path
            assert [n for n in names if n not in names_in(path)] == [], test

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ("", "m.toml: a lacks replace, tests."),
            ('replace = "y"\ntests = []', "m.toml: a names no test."),
            ('replace = "x"\ntests = ["t"]', "m.toml: a changes nothing."),
            ('replace = "y"\ntests = ["t"]\ntest = "t"', "m.toml: a has unknown fields: test."),
        ],
    )
    def test_an_entry_that_will_not_do(self, tmp_path: Path, changes: str, problem: str) -> None:
        entry = '[[mutant]]\nname = "a"\nbreaks = "It."\nfile = "f"\nfind = "x"\n'
        (tmp_path / "m.toml").write_text(entry + changes, encoding="utf-8")
        with pytest.raises(NotAMutant) as raised:
            read(tmp_path)
        assert str(raised.value) == problem

    def test_one_name_is_one_mutant(self, tmp_path: Path) -> None:
        """It is chosen by its name."""
        entry = (
            '[[mutant]]\nname = "a"\nbreaks = "It."\nfile = "f"\nfind = "x"\nreplace = ""\n'
            'tests = ["t"]\n'
        )
        (tmp_path / "m.toml").write_text(entry * 2, encoding="utf-8")
        with pytest.raises(NotAMutant, match="one name"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("after", "text", "faulty"),
        [("", "a x b", "a y b"), ("B:", "A: x B: x x", "A: x B: y x")],
    )
    def test_where_the_fault_goes(self, after: str, text: str, faulty: str) -> None:
        assert Mutant("m", "It.", "f", "x", "y", ("t",), after).applied_to(text) == faulty

    @pytest.mark.parametrize(
        ("after", "text", "problem"),
        [
            ("", "x x", "`find` 2 times"),
            ("", "a b", "`find` 0 times"),
            ("B:", "A: x", "`after` 0 times"),
            ("B:", "B: B: x", "`after` 2 times"),
            ("B:", "x B: a", "`find` 0 times"),
        ],
    )
    def test_one_that_fits_nowhere_or_twice(self, after: str, text: str, problem: str) -> None:
        with pytest.raises(NotAMutant, match=problem):
            Mutant("m", "It.", "f", "x", "y", ("t",), after).applied_to(text)


PROJECT = {
    "thing.py": "def double(n):\n    return n * 2\n",
    "test_thing.py": """
        import time
        import pytest
        from thing import double

        @pytest.fixture
        def needed():
            assert double(1) == 2

        def test_needs(needed):
            pass

        def test_double():
            assert double(3) == 6

        def test_zero():
            assert double(0) == 0

        def test_waits():
            while double(1) != 2:
                time.sleep(0.01)
    """,
}
FAULT = Mutant("m", "It.", "thing.py", "n * 2", "n * 3", ("test_thing.py::test_double",))


class TestRunner:
    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Scratch:
        """A small project, whose pytest loads no plugins: they take longer than its tests."""
        for name, text in PROJECT.items():
            (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
        return Scratch(tmp_path, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})

    @pytest.mark.parametrize(
        ("changes", "outcome", "detail"),
        [
            ({}, Outcome.KILLED, "test_thing.py::test_double"),
            ({"tests": ("test_thing.py::test_zero",)}, Outcome.SURVIVED, "test_zero"),
            ({"find": "n * 4"}, Outcome.UNFIT, "no longer applies"),
            ({"file": "gone.py"}, Outcome.UNFIT, "gone.py"),
            ({"replace": "n *"}, Outcome.BROKEN, "SyntaxError"),
            ({"tests": ("test_thing.py::test_gone",)}, Outcome.BROKEN, "not found"),
            ({"tests": ("test_thing.py::test_needs",)}, Outcome.BROKEN, "at setup"),
        ],
    )
    def test_what_becomes_of_a_mutant(
        self, scratch: Scratch, tmp_path: Path, changes: dict[str, str], outcome: Outcome,
        detail: str,
    ) -> None:  # fmt: skip
        """Only a test that fails notices it; and the copy is clean for the next one."""
        verdict = scratch.judge(replace(FAULT, **changes), timeout=60)  # type: ignore[arg-type]
        assert (verdict.outcome, detail in verdict.detail) == (outcome, True)
        assert (tmp_path / "thing.py").read_text(encoding="utf-8") == PROJECT["thing.py"]

    def test_one_that_never_ends(self, scratch: Scratch) -> None:
        """Nobody knows whether a test would have failed."""
        endless = replace(FAULT, tests=("test_thing.py::test_waits",))
        assert scratch.judge(endless, timeout=2).outcome is Outcome.TIMED_OUT

    def test_a_change_of_the_same_size_within_a_second(self, scratch: Scratch) -> None:
        """Bytecode of the run before would hide it."""
        both = replace(FAULT, tests=("test_thing.py",), replace="n + n")
        harmless = replace(FAULT, find="n * 2", replace="2 * n")
        assert scratch.judge(harmless, timeout=60).outcome is Outcome.SURVIVED
        assert scratch.judge(FAULT, timeout=60).outcome is Outcome.KILLED
        assert scratch.judge(both, timeout=60).outcome is Outcome.SURVIVED


class TestReport:
    @pytest.mark.parametrize("outcome", Outcome)
    def test_all_but_a_killed_one_end_red(
        self, capsys: pytest.CaptureFixture[str], outcome: Outcome
    ) -> None:
        """And are named with the sentence that would break."""
        verdicts = [
            Verdict(FAULT, Outcome.KILLED, "t", 1),
            Verdict(replace(FAULT, name="other", breaks="Two is two."), outcome, "why", 1),
        ]
        assert report(verdicts) == (0 if outcome is Outcome.KILLED else 1)
        said = capsys.readouterr().out
        assert ("other" in said and "Two is two." in said) is (outcome is not Outcome.KILLED)
