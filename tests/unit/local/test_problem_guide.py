"""The guide to problems has every code, under the status that the code is answered with."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing import errors
from billing.errors import TITLES
from billing.http.refusals import refusal
from local.openapi.problem_guide import CHAPTERS, GUIDES
from tests.unit.billing.test_errors import family
from tests.unit.billing.test_problem_titles import KINDS, SOURCES, constants, refusals
from tests.unit.source import parse


def raised() -> Iterator[tuple[str, int, Path]]:
    """Code, status and file of each error that is made with a code written beside its class."""
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                for keyword in node.keywords:
                    if keyword.arg == "code" and name in KINDS:
                        for code in constants(keyword.value):
                            yield code, getattr(errors, name).status, path


def test_it_has_every_code() -> None:
    assert GUIDES.keys() == TITLES.keys()
    assert sum(len(chapter.codes) for chapter in CHAPTERS) == len(GUIDES)


def test_statuses_are_those_of_the_errors() -> None:
    found = list(raised())
    assert ("email_taken", 409) in [(code, status) for code, status, _ in found]
    wrong = [
        (code, status, str(path)) for code, status, path in found if GUIDES[code].status != status
    ]
    assert wrong == []


def test_statuses_are_those_of_the_classes() -> None:
    kinds = family()
    assert kinds
    for kind in kinds:
        assert GUIDES[kind.code].status == kind.status, kind


def test_statuses_are_those_of_refused_usage() -> None:
    codes = list(refusals())
    assert codes
    for code in codes:
        error = refusal(code)
        assert GUIDES[error.code].status == error.status, code


@pytest.mark.parametrize("code", GUIDES)
def test_words_are_sentences(code: str) -> None:
    """They stand in a table and on a page, each by itself."""
    guide = GUIDES[code]
    for text in (guide.meaning, guide.remedy):
        assert text[0].isupper()
        assert text.endswith((".", '"}`.'))
        assert "\n" not in text
        assert "—" not in text


def test_what_may_be_repeated() -> None:
    """A caller that repeats a refusal would do so for good."""
    for code, guide in GUIDES.items():
        if guide.status in (400, 401, 402, 403, 404, 413, 415, 422):
            assert not guide.retry, code
        if guide.status in (429, 503):
            assert guide.retry, code
