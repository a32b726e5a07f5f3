"""Where Commet sends its events: registered for exactly those we handle, its secret kept.

A secret is shown once, when an endpoint is made. So it is stored before anything else happens, and
an endpoint whose secret we do not have is replaced: first the new one is made, then the old one
removed, and no event falls in between. An event that both deliver is told by its id.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from billing.commet.answers import CreatedWebhookEndpoint, WebhookEndpoint
from billing.commet.client import API_VERSION, Commet
from billing.credentials.webhook_secrets import Vault, WebhookSecret
from billing.deadline import Deadline
from billing.errors import BillingError, CommetRefused, CommetUnavailable, Unavailable
from billing.subscriptions.from_webhook import HANDLED

DESCRIPTION = "Registered by the deployment of the billing stack, which undoes changes made here."

_ROUNDS = 4
_UNDO_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Registration:
    """The endpoint as it is to be. Raises CommetRefused, CommetUnavailable and Unavailable."""

    commet: Commet
    vault: Vault
    url: str
    clock: Callable[[], datetime]
    deadline: Deadline
    events: Sequence[str] = HANDLED

    def ensure(self, *, request_id: str, rotation: str | None = None) -> str:
        """The id of the one endpoint that sends to our URL, active, with a secret we have.

        Safe to repeat, also at the same time. A `rotation`, where it is another than the stored
        one, replaces the endpoint and with it its secret; the old secret is believed for another
        day. Where the new one cannot be stored, its endpoint is removed again.
        """
        for _ in range(_ROUNDS):
            kept = self.vault.read()
            wanted = kept.rotation if rotation is None else rotation
            listed = self.commet.webhooks(self.deadline)
            ours = next((each for each in listed if each.id == kept.endpoint_id), None)
            others = {each.id for each in listed if each.url == self.url} - {kept.endpoint_id}
            if ours is not None and kept.valid(self.clock()) and kept.rotation == wanted:
                self._put_right(ours)
                # What else sends to our address signs with a secret that nobody knows.
                self._delete(others)
                return ours.id
            replaced = others | ({ours.id} if ours else set())
            made = self._make(replaced, kept, request_id)
            self._keep(kept, made, wanted)
            self._delete(replaced - {made.id})
            # Looked at once more: another run may have stored its own endpoint meanwhile, or
            # removed this one; and Commet repeats its answer about one that is gone by now.
        raise CommetUnavailable(nonsense=True)

    def remove(self, endpoint_id: str | None) -> None:
        """Deletes that endpoint and the one whose secret we have.

        Without an id, what sends to our URL: a registration that failed may have left it.
        """
        gone = {endpoint_id or ""}
        with suppress(Unavailable):  # a secret that is gone must not keep a stack from going
            gone.add(self.vault.read().endpoint_id or "")
        if endpoint_id is None:
            gone |= {e.id for e in self.commet.webhooks(self.deadline) if e.url == self.url}
        self._delete(gone - {""})

    def _put_right(self, endpoint: WebhookEndpoint) -> None:
        if (
            endpoint.url != self.url
            or not endpoint.is_active
            or set(endpoint.events) != set(self.events)
            or endpoint.api_version != API_VERSION
        ):
            self.commet.update_webhook(
                endpoint.id,
                url=self.url,
                events=self.events,
                is_active=True,
                deadline=self.deadline,
            )

    def _make(
        self, replaced: Iterable[str], kept: WebhookSecret, request_id: str
    ) -> CreatedWebhookEndpoint:
        """Another endpoint. Two runs of one request that find the same make one together."""
        key = _key(request_id, self.url, *self.events, *sorted(replaced), kept.endpoint_id or "")
        try:
            return self._created(key)
        except CommetRefused as refused:
            if refused.commet_code != "duplicate":
                raise
        # That one address may have two endpoints is promised nowhere: then the old one goes first.
        self._delete(replaced)
        return self._created(f"{key}-alone")

    def _created(self, key: str) -> CreatedWebhookEndpoint:
        return self.commet.create_webhook(
            url=self.url,
            events=self.events,
            description=DESCRIPTION,
            idempotency_key=key,
            deadline=self.deadline,
        )

    def _keep(self, kept: WebhookSecret, made: CreatedWebhookEndpoint, rotation: str) -> None:
        secret = made.secret_key.get_secret_value()
        try:
            self.vault.write(
                kept.renewed(secret, endpoint_id=made.id, rotation=rotation, now=self.clock())
            )
        except BaseException:  # whatever it was: nobody will ever know this endpoint's secret
            with suppress(BillingError):  # what remains is removed by the next run
                self.commet.delete_webhook(made.id, Deadline.after(_UNDO_SECONDS))
            raise

    def _delete(self, endpoint_ids: Iterable[str]) -> None:
        for endpoint_id in sorted(endpoint_ids):
            self.commet.delete_webhook(endpoint_id, self.deadline)


def _key(*parts: str) -> str:
    return f"webhook-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:40]}"
