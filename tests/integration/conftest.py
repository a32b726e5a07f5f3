"""What tests of this level share: a migrated Postgres, the stand-in, and CloudFormation.

The fixtures stand here and nowhere else. A fixture that a module imports is another fixture for
pytest: a database that is shared would be made twice, and the second would drop the first.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg.errors import DuplicateObject

from billing.commet.client import Commet
from billing.database.connection import Connection, Database
from billing.database.migrate import migrate
from billing.database.privileges import ACCOUNTS, APP, PAGES
from standin.testing import StandIn, standin
from tests.http_server import Request, Response, serving
from tests.integration.billing.conftest import (
    Subscribe,
    _connect,
    add_user,
    empty,
    keep,
    subscriber,
)
from tests.integration.billing.racing import OneTransaction, Race, racing


@dataclass
class CloudFormation:
    """Takes answers at a presigned address, as S3 does: for no content type.

    The next `refuses` answers meet a 503.
    """

    url: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    content_types: list[str | None] = field(default_factory=list)
    refuses: int = 0

    def event(
        self,
        kind: str,
        resource_id: str | None = None,
        *,
        request_id: str = "request-1",
        logical_id: str = "Resource",
        **properties: str,
    ) -> dict[str, Any]:
        """What CloudFormation sends to the function of a custom resource."""
        event = {
            "RequestType": kind,
            "ResponseURL": self.url,
            "StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/billing/1",
            "RequestId": request_id,
            "LogicalResourceId": logical_id,
            "ResourceProperties": {"ServiceToken": "arn:function"} | properties,
        }
        return event | ({"PhysicalResourceId": resource_id} if resource_id else {})

    @property
    def answer(self) -> dict[str, Any]:
        """The one that was given; there must not be a second."""
        (answer,) = self.answers
        self.answers.clear()
        return answer


@dataclass
class Context:
    """Of an invocation that ends in so many seconds: as much as we and Powertools read of it."""

    seconds: float = 60.0
    aws_request_id: str = "invocation-1"
    function_name: str = "test"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:1:function:test"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    stack = CloudFormation()

    def take(request: Request) -> Response:
        if stack.refuses:
            stack.refuses -= 1
            return Response(status=503)
        stack.content_types.append(request.headers.get("content-type"))
        stack.answers.append(json.loads(request.body))
        return Response()

    with serving(take) as url:
        stack.url = f"{url}/answer"
        yield stack


@pytest.fixture(scope="session")
def migrated_url(postgres_server: str) -> Iterator[str]:
    """A migrated database of this session's own."""
    name = f"billing_test_{os.getpid()}"
    url = urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
    with _connect(postgres_server) as admin:
        admin.execute(f"drop database if exists {name} with (force)")
        admin.execute(f"create database {name}")
        try:
            # `billing_pages` is `accounts` in a stack with pages.
            roles = [("billing_app", APP), ("billing_accounts", ACCOUNTS)]
            roles += [("billing_pages", ACCOUNTS), ("billing_pages", PAGES)]
            for role, _ in roles:
                with suppress(DuplicateObject):
                    admin.execute(f"create role {role}")
            migrate(lambda: _connect(url), roles)
            yield url
        finally:
            admin.execute(f"drop database if exists {name} with (force)")


@pytest.fixture(scope="session")
def _sweeper(migrated_url: str) -> Iterator[Connection]:
    """The connection that empties the tables. A new one would plan that anew for each test."""
    with _connect(migrated_url) as connection:
        yield connection


@pytest.fixture
def database_url(migrated_url: str, _sweeper: Connection) -> str:
    """A migrated database in which this test finds every table empty."""
    empty(_sweeper)
    return migrated_url


@pytest.fixture(scope="session")
def shared(migrated_url: str) -> Iterator[Database]:
    """The database without being emptied first, for tests that keep to users of their own."""
    database = Database(lambda: _connect(migrated_url))
    yield database
    database.close()


@pytest.fixture
def user(shared: Database) -> str:
    """A user of this test's own in the shared database, unknown to Commet."""
    return add_user(shared)


@pytest.fixture(scope="session")
def _warm() -> Iterator[list[Connection]]:
    """Connections of earlier tests: a new one would plan every statement and routine anew."""
    warm: list[Connection] = []
    yield warm
    for connection in warm:
        connection.close()


@pytest.fixture
def connect(database_url: str, _warm: list[Connection]) -> Iterator[Callable[[], Database]]:
    """Opens further connections to the test's database, as further Lambda environments would."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database(lambda: _warm.pop() if _warm else _connect(database_url)))
        return opened[-1]

    yield open_one
    for database in opened:
        connection, database._connection = database._connection, None
        if connection is not None:
            keep(connection, _warm)


@pytest.fixture
def race(database_url: str) -> Iterator[Race]:
    """A run that stands still before it commits, and others that meet it there."""
    with racing(lambda: _connect(database_url)) as running:
        yield running


@pytest.fixture
def frozen(database_url: str) -> Iterator[Database]:
    """The database with its clock standing still: one transaction, which is rolled back."""
    with _connect(database_url) as connection:
        database = OneTransaction(connection)
        database.value("select now()")
        yield database
        connection.rollback()


@pytest.fixture
def db(connect: Callable[[], Database]) -> Database:
    return connect()


@pytest.fixture
def subscribe(db: Database) -> Subscribe:
    """Makes a user who pays for `storage`: 100 included, $0.10 beyond; keywords change that."""
    return subscriber(db)


@pytest.fixture(scope="session")
def commet_server() -> Iterator[StandIn]:
    """One stand-in for all tests, which keep to users of their own."""
    with standin() as running:
        yield running


@pytest.fixture
def remote(commet_server: StandIn) -> Iterator[StandIn]:
    """The stand-in, behaving."""
    commet_server.control.clear_faults()
    yield commet_server
    commet_server.control.clear_faults()


@pytest.fixture
def client(remote: StandIn) -> Iterator[Callable[[], Commet]]:
    """Makes clients of the stand-in, which do not wait between attempts."""
    made: list[Commet] = []

    def make() -> Commet:
        made.append(
            Commet(
                remote.base_url,
                lambda *, fresh=False: remote.api_key,  # noqa: ARG005
                live=False,
                sleep=lambda _: None,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each._http.close()


@pytest.fixture
def commet(client: Callable[[], Commet]) -> Commet:
    return client()
