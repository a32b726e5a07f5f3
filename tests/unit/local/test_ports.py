"""Ports: an explicit one or none, a wished one or the next."""

import pytest

from local.ports import Port, PortTakenError, free_port


def test_an_explicit_port_that_is_taken_is_an_error() -> None:
    """With the number, so that the message helps."""
    with Port().listen() as taken:
        number = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(number)):
            Port(number).listen()
    assert free_port(Port(number)) == number


def test_a_wished_port_that_is_taken_moves_on() -> None:
    """To the next free one."""
    with Port().listen() as taken:
        number = taken.getsockname()[1]
        assert free_port(Port(number, explicit=False)) > number
