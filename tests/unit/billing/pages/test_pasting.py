"""Commands to paste: ids of others never become a command of their own."""

import json
import shlex

import pytest

from billing.pages.pasting import pasted


class TestDoor:
    def test_it_is_asked_in_json(self) -> None:
        command = pasted("redrive", local=False, what="webhooks", id="whev_1")
        assert command == 'ask \'{"command": "redrive", "what": "webhooks", "id": "whev_1"}\''

    @pytest.mark.parametrize("local", [True, False])
    @pytest.mark.parametrize("user", ["'; rm -rf ~ #", "$(id)", "`id`", 'a" b', "a\\", "ü", "a b"])
    def test_a_shell_reads_any_id_as_one_value(self, user: str, *, local: bool) -> None:
        """`make` would read some of these as its own, so it is never handed one."""
        words = shlex.split(pasted("repair_drift", local=local, user=user))
        assert words[0] == "ask"
        assert [json.loads(word) for word in words[1:]] == [
            {"command": "repair_drift", "user": user}
        ]


class TestMake:
    @pytest.mark.parametrize(
        ("command", "verb"),
        [
            ("repair_drift", "make repair user=usr_1"),
            ("end_sessions", "make end-sessions user=usr_1"),
            ("resolve", "make resolve user=usr_1"),
        ],
    )
    def test_the_verb_is_that_of_the_makefile(self, command: str, verb: str) -> None:
        assert pasted(command, local=True, user="usr_1") == verb

    def test_what_is_true_is_one(self) -> None:
        assert pasted("resolve", local=True, delivered=True) == "make resolve delivered=1"
