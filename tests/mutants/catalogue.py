"""The faults, as the .toml files beside this module list them: one file a kind of fault."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class NotAMutant(ValueError):
    """An entry that cannot be read or applied. The message names the entry and says why."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `file` with `replace` instead of `find`.

    `find` occurs once in the file. Where it occurs more often, `after` names a text that occurs
    once, and the first `find` behind that text is replaced.
    """

    name: str
    breaks: str  # the sentence that is true of the project, and false with the fault in it
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]  # what pytest is given: at least one of them fails with the fault
    after: str = ""

    def applied_to(self, text: str) -> str:
        """The text with the fault in it; raises NotAMutant where it does not fit (any longer)."""
        start = 0
        if self.after:
            if text.count(self.after) != 1:
                raise self._unfit("after", text.count(self.after))
            start = text.index(self.after) + len(self.after)
        found = text.count(self.find, start)
        if found != 1 and not (self.after and found):
            raise self._unfit("find", found)
        at = text.index(self.find, start)
        return text[:at] + self.replace + text[at + len(self.find) :]

    def _unfit(self, field: str, found: int) -> NotAMutant:
        return NotAMutant(
            f"{self.name} no longer applies: {self.file} has its `{field}` {found} times, not once."
        )


def read(place: Path = HERE) -> list[Mutant]:
    """All mutants, in the order of the files and within them; raises NotAMutant."""
    found = [
        _mutant(path, entry)
        for path in sorted(place.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    ]
    names = [mutant.name for mutant in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise NotAMutant(f"Two mutants have one name: {', '.join(sorted(twice))}.")
    return found


def _mutant(path: Path, entry: dict[str, Any]) -> Mutant:
    name = entry.get("name", "a mutant without a name")
    known = {field.name for field in fields(Mutant)}
    if unknown := entry.keys() - known:
        raise NotAMutant(f"{path.name}: {name} has unknown fields: {', '.join(sorted(unknown))}.")
    if missing := known - {"after"} - entry.keys():
        raise NotAMutant(f"{path.name}: {name} lacks {', '.join(sorted(missing))}.")
    if not entry["tests"]:
        raise NotAMutant(f"{path.name}: {name} names no test.")
    if not entry["find"] or entry["find"] == entry["replace"]:
        raise NotAMutant(f"{path.name}: {name} changes nothing.")
    return Mutant(**entry | {"tests": tuple(entry["tests"])})
