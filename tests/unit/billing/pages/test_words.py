"""The words of the pages: each is there, each is used, and what is put into one is escaped."""

import re
import tomllib
from pathlib import Path
from string import Formatter

import pytest

from billing.pages.words import Words
from tests.unit.cloudformation import ROOT

PAGES = ROOT / "functions" / "pages"
ENGLISH = PAGES / "words" / "en"
SOURCES = [
    *sorted((PAGES / "templates").glob("*.html")),
    *sorted((ROOT / "layers/common/billing/pages").glob("*.py")),
]
# A text that is named in one piece, and the beginning or the end of one that is put together.
WHOLE = re.compile(r"""\b(?:w|word|words)(?:\.has)?\(\s*["']([a-z_]+\.[a-z_0-9]+)["']\s*[,)]""")
ANY_KEY = re.compile(r"""["']([a-z_]+\.[a-z_0-9]+)["']""")
BEGINNING = re.compile(r"""["']([a-z_]+\.[a-z_]*)["'] ~|f["']([a-z_]+\.[a-z_]*)\{""")


def test_every_text_that_is_named_is_there() -> None:
    words = Words(ENGLISH)
    named = {(key, file.name) for file in SOURCES for key in WHOLE.findall(_text(file))}
    assert len(named) > 100
    missing = sorted(f"{file}: {key}" for key, file in named if not words.has(key))
    assert missing == []


def test_every_text_is_used() -> None:
    """A text that nothing shows would be translated for nobody."""
    named, beginnings = set(), {"fields.", "problems.", "done.", "chart.", "ruler."}
    for file in SOURCES:
        named |= set(ANY_KEY.findall(_text(file)))
        beginnings |= {one or other for one, other in BEGINNING.findall(_text(file))}
    unused = sorted(
        key
        for key in Words(ENGLISH).names()
        if key not in named and not any(key.startswith(start) for start in beginnings)
    )
    assert unused == []


def test_every_notice_that_a_form_asks_for_is_there() -> None:
    """An address may name any notice; one that is not there shows nothing."""
    words = Words(ENGLISH)
    asked = {name for file in SOURCES for name in re.findall(r'done="([a-z_]+)"', _text(file))}
    assert len(asked) > 10
    assert sorted(name for name in asked if not words.has(f"done.{name}")) == []


def test_what_a_form_can_be_refused_for_is_told_in_the_language_of_the_pages() -> None:
    """Else the English text of the API would be shown."""
    words = Words(ENGLISH)
    problems = (
        "plan_change_not_offered", "plan_change_not_possible", "cancellation_not_possible",
        "payment_method_missing", "payment_failed", "invoice_not_found", "billing_email_taken",
        "no_billing_account", "nothing_to_recover", "plan_not_found", "free_period_used",
        "already_subscribed", "conflict", "debt_open", "unavailable",
    )  # fmt: skip
    missing = [f"problems.{code}" for code in problems if not words.has(f"problems.{code}")]
    fields = (
        "too_common", "too_easy_to_guess", "missing", "string_too_short", "above_ceiling",
        "too_many_decimals", "string_too_long", "too_long",
    )  # fmt: skip
    missing += [f"fields.{code}" for code in fields if not words.has(f"fields.{code}")]
    assert missing == []


def differences(folder: Path, other: Path) -> list[str]:
    """What the words of `other` lack or have more than those of `folder`: texts, forms, places."""
    ours, theirs = _places(folder), _places(other)
    assert ours
    return sorted(
        f"{key}: {ours.get(key, 'no text')} and {theirs.get(key, 'no text')}"
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
    )


def _places(folder: Path) -> dict[str, list[str]]:
    """The places for values in each text, by `file.key`, with the form of a text that has two."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.toml")):
        for key, text in tomllib.loads(_text(file)).items():
            forms = text if isinstance(text, dict) else {"": text}
            for form, each in forms.items():
                # "1 day" needs no place for the number.
                places = {name for _, name, _, _ in Formatter().parse(each) if name}
                found[f"{file.stem}.{key}.{form}"] = sorted(places - {"count"})
    return found


def test_every_language_has_every_text_with_its_places() -> None:
    """A page without one of its texts would be an error."""
    languages = [folder for folder in (PAGES / "words").iterdir() if folder.is_dir()]
    assert ENGLISH in languages
    wrong = {each.name: differences(ENGLISH, each) for each in languages}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_text_that_a_translation_lacks_is_noticed(tmp_path: Path) -> None:
    for name, texts in {
        "en": 'hello = "Hello {name}"\nbye = "Bye"\n[days]\none = "1 day"\nother = "{count} days"',
        "de": 'hello = "Hallo"\nnew = "Neu"\n[days]\none = "1 Tag"',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.toml").write_text(texts, encoding="utf-8")
    assert differences(tmp_path / "en", tmp_path / "de") == [
        "page.bye.: [] and no text",
        "page.days.other: [] and no text",
        "page.hello.: ['name'] and []",
        "page.new.: no text and []",
    ]


def test_a_value_is_escaped_and_the_texts_own_markup_is_not(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text('hello = "<strong>{name}</strong>"', encoding="utf-8")
    said = Words(tmp_path)("page.hello", name="<script>&")
    assert said == "<strong>&lt;script&gt;&amp;</strong>"


@pytest.mark.parametrize(("count", "said"), [(1, "1 day"), (0, "0 days"), (14, "14 days")])
def test_a_text_has_a_form_for_one(tmp_path: Path, count: int, said: str) -> None:
    text = '[days]\none = "1 day"\nother = "{count} days"'
    (tmp_path / "page.toml").write_text(text, encoding="utf-8")
    assert Words(tmp_path)("page.days", count=count) == said


def test_a_text_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text('hello = "Hello"', encoding="utf-8")
    with pytest.raises(KeyError):
        Words(tmp_path)("page.goodbye")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
