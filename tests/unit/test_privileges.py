"""Each database role may do what its functions' SQL does, and nothing else.

What the SQL does is read from its text: the statements that a function's code can reach, the
routines that they call, and the triggers of the tables that they write. A routine with
`security definer` runs as the owner of the tables, so it needs no privilege of its caller's.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest

from billing.database import privileges
from billing.database.privileges import ACCOUNTS, APP, PAGES, Privileges
from tests.unit.cloudformation import TEMPLATE, app_of, load, of_type
from tests.unit.reached import statements_of, text_of
from tests.unit.source import BILLING

FOLDER = BILLING / "database"
FUNCTIONS = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
# The migrations are the owner's, and this one uses no database.
WITHOUT_ROLE = {"MigrateFunction", "RegisterWebhookFunction"}
# They are not in every stack. With them, the role `accounts` has more privileges.
OF_PAGES = "PagesFunction"

Need = tuple[str, str]  # a table or view, and a privilege


def without_comments(text: str) -> str:
    return re.sub(r"--(?! name:)[^\n]*", "", text)


@cache
def schema() -> frozenset[str]:
    """The tables and views."""
    files = [*(FOLDER / "tables").glob("*.sql"), *(FOLDER / "routines").glob("*.sql")]
    text = "\n".join(without_comments(file.read_text(encoding="utf-8")) for file in files)
    found = re.findall(r"create (?:table|or replace view) (\w+)", text)
    return frozenset(found)


@cache
def routines() -> dict[str, str]:
    """Every routine: its name, and its text from its parameters on."""
    found: dict[str, str] = {}
    for file in (FOLDER / "routines").glob("*.sql"):
        text = without_comments(file.read_text(encoding="utf-8"))
        for match in re.finditer(
            r"create or replace function (\w+)(.*?\$\$.*?\$\$)", text, re.DOTALL
        ):
            found[match[1]] = match[2]
    return found


def definers() -> set[str]:
    return {name for name, text in routines().items() if "security definer" in text}


@cache
def triggers() -> dict[str, set[str]]:
    """The routines that a write to each table calls."""
    found: dict[str, set[str]] = {}
    for file in (FOLDER / "routines").glob("*.sql"):
        text = without_comments(file.read_text(encoding="utf-8"))
        for match in re.finditer(
            r"create or replace trigger \w+.*?\son (\w+)\s.*?execute function (\w+)",
            text,
            re.DOTALL,
        ):
            found.setdefault(match[1], set()).add(match[2])
    return found


_ALIAS = re.compile(
    r"(?<!for )(?<!key )\b(?:from|join|update|into|using|,)\s+(\w+)"
    r"(?:\s+(?:as\s+)?(?!set\b|on\b|where\b)(\w+))?"
)
_LOCK = re.compile(r"\bfor (?:no key )?update(?: of ([\w, ]+?))?(?=\s|;|\)|$)")


def needs(text: str) -> set[Need]:
    """What statements do with tables and views."""
    found: set[Need] = set()
    for statement in re.split(r";|^-- name:", text, flags=re.MULTILINE):
        aliases = {m[2] or m[1]: m[1] for m in _ALIAS.finditer(statement)}
        # Of an alias that several subqueries have, each table is read.
        read = {m[1] for m in _ALIAS.finditer(statement)}
        aliases |= {name: name for name in read}
        found |= {(name, "select") for name in read}
        for match in re.finditer(r"insert into (\w+)(.*?)(?=insert into|$)", statement, re.DOTALL):
            found.add((match[1], "insert"))
            if "do update" in match[2]:  # which reads the row that is there
                found |= {(match[1], "update"), (match[1], "select")}
        written = re.findall(r"(?<!for )(?<!no key )(?<!do )\bupdate (\w+)", statement)
        found |= {(name, "update") for name in written}
        found |= {(name, "delete") for name in re.findall(r"delete from (\w+)", statement)}
        for lock in _LOCK.finditer(statement):  # a row lock needs the privilege to update
            locked = re.split(r",\s*", lock[1].strip()) if lock[1] else _all_of(statement, lock)
            found |= {(aliases[name], "update") for name in locked if name in aliases}
    return {(name, privilege) for name, privilege in found if name in schema()}


def _all_of(statement: str, lock: re.Match[str]) -> list[str]:
    """The names that a lock without names is on: those of the select that it ends."""
    select = statement[statement.rfind("select", 0, lock.start()) : lock.start()]
    return re.findall(r"\b(?:from|join)\s+(\w+)", select)


def called(text: str) -> set[str]:
    return {name for name in routines() if re.search(rf"\b{name}\s*\(", text)}


def all_needs(texts: Iterable[str]) -> tuple[set[Need], set[str]]:
    """What these texts need, with all that they call; and the definers among it."""
    found: set[Need] = set()
    seen: set[str] = set()
    waiting = list(texts)
    while waiting:
        text = waiting.pop()
        here = needs(text)
        found |= here
        reached = called(text)
        for table, privilege in here:
            if privilege != "select":
                reached |= triggers().get(table, set())
        waiting += [routines()[name] for name in reached - seen - definers()]
        seen |= reached
    return found, seen & definers()


def functions_of(role: Privileges) -> list[str]:
    """The functions that log in as this role, by the secret that the template hands them."""
    if role is PAGES:
        return [OF_PAGES]
    found = []
    for name in FUNCTIONS.keys() - WITHOUT_ROLE - {OF_PAGES}:
        variables: dict[str, Any] = FUNCTIONS[name]["Environment"]["Variables"]
        is_of_accounts = "DATABASE_SECRET_ARN" in variables
        if is_of_accounts == (role is ACCOUNTS):
            found.append(name)
    return found


def of_role(role: Privileges) -> tuple[set[Need], set[str]]:
    functions = functions_of(role)
    assert functions
    apps = [app_of(FUNCTIONS[name]) for name in functions]
    reached = {statement for app in apps for statement in statements_of(app)}
    return all_needs(without_comments(text_of(statement)) for statement in reached)


def granted(role: Privileges) -> set[Need]:
    found = {(table, privilege) for table, privilege, _ in role.each()}
    return found | {(privileges.MIGRATIONS, "select")}


def columns_set(role: Privileges, table: str) -> set[str]:
    """The columns that statements of the role's functions set. Routines set none of `sessions`."""
    functions = functions_of(role)
    apps = [app_of(FUNCTIONS[name]) for name in functions]
    reached = {statement for app in apps for statement in statements_of(app)}
    texts = [without_comments(text_of(statement)) for statement in reached]
    columns = re.compile(rf"update {table}(?: \w+)? set(.*?)\b(?:from|where)\b", re.DOTALL)
    updates = [found for text in texts for found in columns.findall(text)]
    return {name for update in updates for name in re.findall(r"(\w+) = ", update)}


ROLES = pytest.mark.parametrize("role", [APP, ACCOUNTS], ids=["app", "accounts"])


class TestRole:
    @ROLES
    def test_it_may_do_what_its_functions_do_and_nothing_else(self, role: Privileges) -> None:
        wanted, _ = of_role(role)
        assert granted(role) == wanted | {(privileges.MIGRATIONS, "select")}

    @ROLES
    def test_it_may_call_the_definers_that_its_functions_call(self, role: Privileges) -> None:
        of_triggers = {name for names in triggers().values() for name in names}
        assert role.routines == of_role(role)[1] - of_triggers

    @ROLES
    def test_it_may_update_the_columns_that_its_functions_set(self, role: Privileges) -> None:
        """Where the list names columns."""
        columns: dict[str, set[str]] = {}
        for table, privilege, column in role.each():
            if privilege == "update" and column is not None:
                columns.setdefault(table, set()).add(column)
        assert columns == {table: columns_set(role, table) for table in columns}
        assert ("sessions" in columns) == (role is APP)

    def test_pages_are_granted_what_accounts_lacks_and_nothing_else(self) -> None:
        """It is granted beside what `accounts` has in every stack."""
        wanted, called_definers = of_role(PAGES)
        assert wanted
        assert granted(PAGES) == wanted - granted(ACCOUNTS) | {(privileges.MIGRATIONS, "select")}
        of_triggers = {name for names in triggers().values() for name in names}
        assert PAGES.routines == called_definers - of_triggers - ACCOUNTS.routines

    def test_no_page_adds_to_the_ledger(self) -> None:
        assert PAGES.tables["usage_event"] == "select"

    def test_passwords_are_not_the_apps(self) -> None:
        assert "passwords" not in APP.tables
        assert "passwords" in ACCOUNTS.tables

    def test_the_ledger_is_only_added_to(self) -> None:
        assert APP.tables["usage_event"] == "select, insert"
        assert "usage_event" not in ACCOUNTS.tables


class TestDefiners:
    def test_each_has_a_search_path_of_its_own(self) -> None:
        """A caller's search path could put other tables and functions in the place of ours."""
        assert definers()
        for name in definers():
            head = routines()[name].partition("$$")[0]
            assert "set search_path = pg_catalog, public, pg_temp" in head, name


class TestReading:
    """The reading of SQL itself."""

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("select id from users", {("users", "select")}),
            ("select 1 from users u for update", {("users", "select"), ("users", "update")}),
            (
                "select 1 from users u join sessions s on true for no key update of s",
                {("users", "select"), ("sessions", "select"), ("sessions", "update")},
            ),
            ("delete from sessions where true", {("sessions", "select"), ("sessions", "delete")}),
            (
                "insert into users (id) values (1) on conflict (id) do update set id = 2",
                {("users", "select"), ("users", "insert"), ("users", "update")},
            ),
            ("update users as u set name = ''", {("users", "select"), ("users", "update")}),
        ],
    )
    def test_one_statement(self, text: str, wanted: set[Need]) -> None:
        assert needs(text) == wanted
