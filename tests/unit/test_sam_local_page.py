"""docs/sam-local.md can be followed by a program: `make sam-local-test` does."""

from pathlib import Path

import pytest

from tests.samlocal.page import Block, blocks
from tests.samlocal.told import PAGE


def test_every_block_is_found() -> None:
    """The first ends in the API, the last takes everything down, and nothing waits for a server."""
    first, *_, last = found = blocks(PAGE)
    assert len(found) == PAGE.read_text(encoding="utf-8").count("```sh\n")
    assert first.address == "http://127.0.0.1:3000"
    assert last.text == "docker compose down --volumes\n"
    served = [block.address for block in found if block.address]
    assert served == [f"http://127.0.0.1:{port}" for port in (3000, 3002, 3003)]


def test_a_server_must_say_where_it_answers(tmp_path: Path) -> None:
    """Else nobody could tell when it has started."""
    page = tmp_path / "page.md"
    page.write_text("```sh\nsam local start-api\n```\n", encoding="utf-8")
    (block,) = blocks(page)
    with pytest.raises(ValueError, match="not enough values"):
        assert block.address


def test_a_block_is_called_after_its_last_command() -> None:
    assert Block("a\nb --c \\\n  d\n").title == "b --c d"
