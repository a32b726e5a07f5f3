"""Axe, which reads a page in a browser for what keeps people out."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from playwright.sync_api import Page

from tests.node import package

# WCAG 2.2, levels A and AA.
WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
# And what axe's makers hold for good practice.
ALL = (*WCAG, "best-practice")


def violations(page: Page, rules: Sequence[str] = ALL) -> dict[str, list[str]]:
    """The elements of the page that break a rule, by the rule's name.

    Skips the test where axe is not installed.
    """
    page.evaluate(_script())
    found: dict[str, Any] = page.evaluate("tags => axe.run(document, {runOnly: tags})", list(rules))
    assert found["passes"], "Axe has read nothing."
    return {each["id"]: [node["html"] for node in each["nodes"]] for each in found["violations"]}


@cache
def _script() -> str:
    return (package("axe-core") / "axe.min.js").read_text(encoding="utf-8")
