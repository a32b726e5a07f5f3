"""However webhooks arrive, the mirror ends in Commet's truth."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from billing import wiring
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.database.connection import Database
from functions.webhook import app
from standin.testing import receiver, standin
from tests.environments import forget
from tests.proof.histories import BEGINNING, LOSS, History, Step, steps
from tests.proof.scale import FULL, scaled

EXAMPLES = settings(
    max_examples=scaled(250, 6),
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

# A refresh that meets newer news leaves the row marked for the next.
_RUNS = 3


@dataclass(frozen=True)
class Tale:
    """A history to be, and the readings of Commet's contract under which it takes place."""

    steps: list[Step]
    seed: int
    same_timestamps: bool
    options: dict[str, Any]


def tales(*others: "st.SearchStrategy[Step]") -> "st.SearchStrategy[Tale]":
    """Histories with these steps besides."""
    return st.builds(
        Tale,
        steps=steps(*others),
        seed=st.integers(0, 9999),
        same_timestamps=st.booleans(),
        options=st.fixed_dictionaries(
            {
                "state_snapshot": st.sampled_from(["delivery", "emission"]),
                "active_lookup": st.sampled_from(["any", "live"]),
                "shuffle_seed": st.none() | st.integers(0, 99),
            }
        ),
    )


class Handler:
    """The webhook function in this process; also the store of its one secret."""

    def __init__(self) -> None:
        self._secret = ""

    def know(self, secret: str) -> None:
        """From now on this secret is the right one."""
        self._secret = secret
        forget()

    def get(self, *_: str) -> str:
        """Every secret of the stack is the webhook's."""
        return json.dumps({"secrets": [self._secret]})

    def __call__(self, body: bytes, signature: str) -> int:
        """Delivers through HTTP, as far as Lambda sees it; the status of the answer."""
        event = {
            "requestContext": {
                "requestId": "1",
                "routeKey": "$default",
                "http": {"method": "POST"},
            },
            "headers": {"x-commet-signature": signature},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        return int(app.handler(event, None)["statusCode"])


@pytest.fixture
def handler(proof_db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handler]:
    made = Handler()
    monkeypatch.setenv("COMMET_MODE", "sandbox")
    monkeypatch.setenv("WEBHOOK_SECRET_ARN", "webhook")
    monkeypatch.setattr(app.metrics.provider, "namespace", "test")
    monkeypatch.setattr(wiring, "database", lambda: proof_db)
    monkeypatch.setattr(wiring, "secrets", lambda: Secrets(made))
    forget()
    yield made
    forget()


@contextmanager
def taking_place(
    tale: Tale, db: Database, handler: Handler, *, swept: bool = False
) -> Iterator[History]:
    """The history, up to where all that is left is to deliver the rest, in an empty mirror.

    Where it has been `swept` already, reconcile reads nothing but what is marked.
    """
    tables = db.value(
        "select string_agg(quote_ident(tablename), ', ') from pg_tables"
        " where schemaname = 'public' and tablename <> 'schema_migrations'"
    )
    db.execute(f"truncate {tables} restart identity")
    if swept:
        db.execute("insert into rounds (name, started_at) values ('sweep', now())")
    with standin(**tale.options) as remote, receiver() as hooks:
        commet = Commet(
            remote.base_url,
            lambda *, fresh=False: remote.api_key,  # noqa: ARG005
            live=False,
            sleep=lambda _: None,
        )
        if tale.same_timestamps:
            remote.control.fault(webhooks={"same_timestamp": True}, times=None)
        history = History(db, remote, hooks, commet, handler)
        handler.know(history.secret)
        try:
            for step in BEGINNING + tale.steps:
                note(repr(step))
                history.run(step)
            yield history
        finally:
            history.close()
            commet._http.close()


@EXAMPLES
@given(tale=tales())
def test_nothing_lost(proof_db: Database, handler: Handler, tale: Tale) -> None:
    """Late, shuffled, twice: webhooks and the questions they lead to are enough."""
    with taking_place(tale, proof_db, handler, swept=True) as history:
        history.deliver_all(tale.seed)
        for _ in range(_RUNS):
            history.reconcile()
        assert history.differences() == []


@EXAMPLES
@given(tale=tales(LOSS))
def test_any_lost(proof_db: Database, handler: Handler, tale: Tale) -> None:
    """Whatever never arrived, a day of reconcile finds it out."""
    with taking_place(tale, proof_db, handler) as history:
        history.lose(tale.seed)
        history.deliver_all(tale.seed)
        proof_db.execute("update subscriptions set recheck_at = now()")
        proof_db.execute("update rounds set started_at = now() - interval '1 day'")
        for _ in range(_RUNS):
            history.reconcile()
        assert history.differences() == []
