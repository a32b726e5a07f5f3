"""Writes a function of your own: `python -m local.new_function summarize --feature storage`.

The function answers POST /summarize. It admits the user, holds a quantity, does the work, and
counts what it took. Written are the handler, its test, and in template.yaml the function with its
role, log group, alarms and lines of the dashboard. `make openapi` describes the route afterwards.
docs/build-your-own.md goes on from there.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FILES = Path(__file__).with_name("function_files")

_CHARTS = ("Errors", "Throttles", "Duration", "ConcurrentExecutions")


class NewFunctionError(Exception):
    """The function cannot be written. No file was changed."""


def write(root: Path, name: str, feature: str) -> list[Path]:
    """Writes the function into the project at `root`. Returns the files.

    Raises NewFunctionError.
    """
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name):
        raise NewFunctionError(f"{name!r} is no name for a function: words like sum_up, a to z.")
    if not re.fullmatch(r"[a-z0-9_]{1,100}", feature):
        raise NewFunctionError(f"{feature!r} is no code of a feature: a to z, digits and _.")
    path, own = name.replace("_", "-"), "".join(part.capitalize() for part in name.split("_"))
    template = (root / "template.yaml").read_text(encoding="utf-8")
    taken = [f"  {own}Function:\n", f"Path: /{path}}}", f"Path: /{path}\n", f"  {own}Logs:\n"]
    if (root / "functions" / name / "app.py").exists() or any(each in template for each in taken):
        raise NewFunctionError(f"There is a function {name}, or a route /{path}, already.")
    fill = _filling(
        {
            "NAME": name,
            "PATH": path,
            "CLASS": own,
            "WORDS": name.replace("_", " "),
            "FEATURE": feature,
            "DESCRIBED": _like(template, "NewVersionCrashesAlarm", "AlarmDescription"),
        }
    )
    texts = {
        root / "functions" / name / "app.py": fill(_text("app.py.txt")),
        root / f"tests/integration/functions/test_{name}.py": fill(_text("test.py.txt")),
        root / "template.yaml": _changed(template, own, fill),
        root / "docs/architecture.md": _in_the_architecture(root, fill),
        root / "docs/aws.md": _in_the_numbers(root, fill),
    }
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(texts)


def _text(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _filling(words: dict[str, str]) -> Callable[[str], str]:
    """Returns a function that puts the words into a text. CLASS is also replaced at the start
    of a name.
    """
    whole = "|".join(word for word in words if word != "CLASS")
    pattern = re.compile(rf"\b(?:{whole})\b|\bCLASS(?=[A-Z:])")
    return lambda text: pattern.sub(lambda match: words[match[0]], text)


def _changed(template: str, own: str, fill: Callable[[str], str]) -> str:
    """Returns the template with the function and its own alarms, because an alarm has ten
    metrics at most.
    """
    template = _before(template, "  DeliverUsageLogs:\n", fill(_text("resources.yaml.txt")))
    template = _before(template, "  UnsentMailAlarm:\n", fill(_text("alarms.yaml.txt")))
    template = _before(template, "NewVersionCrashesAlarm]\n", f"{own}CrashesAlarm, !Ref ")
    template = _after(
        template,
        '          "${ScheduleThrottlesAlarm.Arn}",\n',
        f'          "${{{own}ErrorsAlarm.Arn}}",\n          "${{{own}ThrottlesAlarm.Arn}}",\n',
    )
    for metric in _CHARTS:
        line = '          ["AWS/Lambda", "{}", "FunctionName", "${{{}Function}}"],\n'
        template = _after(template, line.format(metric, "TrackUsage"), line.format(metric, own))
    return template


def _in_the_architecture(root: Path, fill: Callable[[str], str]) -> str:
    page = (root / "docs/architecture.md").read_text(encoding="utf-8")
    row = "| `NAME` | HTTP | POST /PATH, counted as usage of `FEATURE` |\n"
    return _before(page, "| `webhook` | Commet", fill(row))


def _in_the_numbers(root: Path, fill: Callable[[str], str]) -> str:
    """Returns docs/aws.md with the function's memory and time, which are those of other
    functions.
    """
    page = (root / "docs/aws.md").read_text(encoding="utf-8")
    row = "| NAME | 512 | 20 | what functions that answer HTTP have |\n"
    return _before(page, "| webhook | 512 | 9 |", fill(row))


def _like(template: str, resource: str, key: str) -> str:
    """Returns the value of a key of another resource."""
    found = re.search(rf"^  {resource}:\n(?:    .*\n)*?      {key}: (.*)\n", template, re.MULTILINE)
    if found is None:
        raise NewFunctionError(f"template.yaml has no {resource} with {key}.")
    return found[1]


def _before(text: str, place: str, new: str) -> str:
    return text.replace(place, new + place, 1) if _has(text, place) else text


def _after(text: str, place: str, new: str) -> str:
    return text.replace(place, place + new, 1) if _has(text, place) else text


def _has(text: str, place: str) -> bool:
    if text.count(place) != 1:
        raise NewFunctionError(
            f"{place.strip()!r} is not where it was. Write the function by hand, as the others are."
        )
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.new_function", description=__doc__)
    parser.add_argument("name", help="the function's name, such as summarize")
    parser.add_argument("--feature", default="storage", help="the feature it counts as (storage)")
    asked = parser.parse_args(arguments)
    try:
        files = write(ROOT, asked.name, asked.feature)
    except NewFunctionError as error:
        print(error, file=sys.stderr)
        return 1
    for file in files:
        print(f"Wrote {file.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
