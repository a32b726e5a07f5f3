"""Every lock in our SQL is taken away by a mutant, so a test fails without that lock."""

import re
from pathlib import Path

import pytest

from tests.mutants.catalogue import Mutant, read

ROOT = Path(__file__).parents[2]
BILLING = ROOT / "layers/common/billing"
LOCK = re.compile(
    r"\bfor (?:no key )?update\b|\bfor (?:key )?share\b|\bpg_(?:try_)?advisory\w*|\block table\b"
)
FILES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted([*BILLING.rglob("*.sql"), *BILLING.rglob("*.py")])
    if LOCK.search(path.read_text(encoding="utf-8"))
]


def without_comments(text: str) -> str:
    """The same, with blanks in the place of SQL comments."""
    return re.sub(r"--.*", lambda found: " " * len(found[0]), text)


def taken_away(mutant: Mutant, text: str) -> set[int]:
    """Where the mutant leaves no lock of those that the text has."""
    start = text.index(mutant.after) + len(mutant.after) if mutant.after else 0
    at = text.index(mutant.find, start)
    if LOCK.search(mutant.replace):
        return set()
    return {at + lock.start() for lock in LOCK.finditer(mutant.find)}


def test_there_are_locks() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("file", FILES)
def test_each_lock_has_a_mutant(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    gone = {at for m in read() if m.file == file for at in taken_away(m, text)}
    bare = [
        f"{file}:{text[: lock.start()].count(chr(10)) + 1}: {lock[0]}"
        for lock in LOCK.finditer(without_comments(text))
        if lock.start() not in gone
    ]
    assert not bare, "Locks that no mutant of tests/mutants takes away."
