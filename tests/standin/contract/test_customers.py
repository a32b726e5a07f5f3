"""Customers: idempotent creation, lookups, paging."""

import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn


class TestCreate:
    def test_the_same_id_is_the_same_customer(self, sdk: Commet, server: StandIn) -> None:
        """Creating again returns the first record unchanged and tells no second event."""
        first = sdk.customers.create(email="ana@example.com", id="usr_1")
        again = sdk.customers.create(email="other@example.com", id="usr_1")
        assert again == first
        assert len(server.control.events("customer.created")) == 1

    def test_without_an_own_id_each_is_new(self, sdk: Commet) -> None:
        """The email does not identify anybody."""
        first = sdk.customers.create(email="ana@example.com")
        assert first.external_id is None
        assert sdk.customers.create(email="ana@example.com").id != first.id

    def test_metadata_is_returned_as_it_was(self, sdk: Commet, server: StandIn) -> None:
        """Numbers in metadata are neither rounded nor turned into text."""
        created = sdk.customers.create(email="a@example.com", metadata={"share": 0.1, "n": 3})
        assert created.metadata == {"share": 0.1, "n": 3}
        event = server.control.events("customer.created")[0]
        assert event["data"]["metadata"] == {"share": 0.1, "n": 3}


class TestUpdate:
    def test_tells_an_event(self, sdk: Commet, server: StandIn) -> None:
        """An update is told with the new values."""
        customer = sdk.customers.create(email="ana@example.com", id="usr_1")
        sdk.customers.update(customer.id, email="new@example.com")
        assert server.control.events("customer.updated")[0]["data"]["email"] == "new@example.com"

    def test_an_id_of_another_is_a_duplicate(self, sdk: Commet) -> None:
        """External ids stay unique."""
        sdk.customers.create(email="a@example.com", id="a")
        other = sdk.customers.create(email="b@example.com", id="b")
        with pytest.raises(CommetAPIError) as caught:
            sdk.customers.update(other.id, external_id="a")
        assert caught.value.code == "duplicate"


class TestList:
    def test_pages_through_everything_once(self, sdk: Commet) -> None:
        """Cursors neither repeat nor skip, also when someone is added in between."""
        for number in range(7):
            sdk.customers.create(email=f"{number}@example.com", id=f"u{number}")
        seen, cursor = [], None
        while True:
            page = sdk.customers.list(cursor=cursor, limit=3)
            seen += [customer.external_id for customer in page.data]
            sdk.customers.create(email="late@example.com")
            cursor = page.next_cursor
            if not page.has_more:
                break
        assert seen == [f"u{number}" for number in reversed(range(7))]
        assert cursor is None

    def test_by_external_id(self, sdk: Commet) -> None:
        """Finds ours, and nobody for an unknown id."""
        sdk.customers.create(email="a@example.com", id="a")
        sdk.customers.create(email="b@example.com", id="b")
        assert [c.email for c in sdk.customers.list(external_id="b").data] == ["b@example.com"]
        assert sdk.customers.list(external_id="c").data == []
