"""Writes the description of the API from the code, or checks that it is up to date."""

import argparse
import json
import os
import sys
from pathlib import Path

from local.openapi import ROOT, document, event_types, schema_changes
from local.openapi.problem_page import markdown, page

_SERVED = ROOT / "functions" / "dashboard" / "reference"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 1 if a file is out of date, or if an event's schema breaks
    that of the last release; else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m local.openapi", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--write",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=ROOT,
        help="write all files; with FILE only the OpenAPI document, as the environment's"
        " OWN_ACCOUNTS and OIDC_ISSUER make it",
    )
    action.add_argument("--check", action="store_true", help="fail where a file is out of date")
    options = parser.parse_args(arguments)
    if _breaks_the_last_release():
        return 1
    if options.check:
        return _check()
    if options.write != ROOT:
        options.write.write_text(document.render(os.environ), encoding="utf-8")
        print(f"Wrote {options.write}.")
        return 0
    old = _out_of_date()
    for path, text in old.items():
        path.write_text(text, encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}.")
    if not old:
        print("The description of the API is up to date.")
    return 0


def files() -> dict[Path, str]:
    """Returns all files that describe the API, each with the text that it should have."""
    described = document.document()
    return {
        ROOT / "docs" / "openapi.json": document.as_text(described),
        ROOT / "docs" / "problems.md": markdown(),
        # With many lines, so that git can merge two branches that describe different routes.
        _SERVED / "openapi.json": json.dumps(described, indent=0, ensure_ascii=False) + "\n",
        _SERVED / "problems.html": page(),
    } | {
        ROOT / "docs" / "events" / f"{kind}.json": document.as_text(event_types.schema(kind))
        for kind in event_types.MODELS
    }


def _breaks_the_last_release() -> bool:
    """Prints what readers of the last release's events would miss."""
    now = {kind: event_types.schema(kind) for kind in event_types.MODELS}
    wrong = schema_changes.broken(schema_changes.recorded(ROOT / "releases"), now)
    if wrong:
        print(
            "Readers of the last release's events could not read these. Add a field or a type"
            " instead (docs/events.md):",
            *wrong,
            sep="\n  ",
            file=sys.stderr,
        )
    return bool(wrong)


def _out_of_date() -> dict[Path, str]:
    return {
        path: text
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def _check() -> int:
    old = [str(path.relative_to(ROOT)) for path in _out_of_date()]
    if old:
        print(f"Out of date: {', '.join(old)}. Run `make openapi`, and commit.", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
