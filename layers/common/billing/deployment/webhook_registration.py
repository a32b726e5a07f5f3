"""Registers our webhook endpoint at Commet, for the types that we handle, and stores its secret.

Commet shows a secret once, when the endpoint is created, so the secret is stored before anything
else happens. An endpoint whose secret we do not have is replaced. The new endpoint is created first
and the old one deleted afterwards, so that no webhook is lost. If both endpoints deliver a webhook,
it has the same id and is applied once.
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

DESCRIPTION = "Registered by the billing stack. Its next deployment undoes changes made here."

_ROUNDS = 4
_UNDO_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Registration:
    """The endpoint as it should be: its address and its webhook types.

    Methods raise CommetRefused, CommetUnavailable, and Unavailable for the secret.
    """

    commet: Commet
    vault: Vault
    url: str
    clock: Callable[[], datetime]
    deadline: Deadline
    events: Sequence[str] = HANDLED

    def ensure(self, *, request_id: str, rotation: str | None = None) -> str:
        """Makes sure that one active endpoint, whose secret we have, sends to our URL.

        Returns the endpoint's id. May be repeated, also by two runs at the same time. A `rotation`
        that differs from the stored one replaces the endpoint and its secret; the old secret
        remains valid for another day. If the new secret cannot be stored, its endpoint is deleted
        again.
        """
        for _ in range(_ROUNDS):
            kept = self.vault.read()
            wanted = kept.rotation if rotation is None else rotation
            listed = self.commet.webhooks(self.deadline)
            ours = next((each for each in listed if each.id == kept.endpoint_id), None)
            others = {each.id for each in listed if each.url == self.url} - {kept.endpoint_id}
            if ours is not None and kept.valid(self.clock()) and kept.rotation == wanted:
                self._put_right(ours)
                # We do not have the secrets of other endpoints with our address.
                self._delete(others)
                return ours.id
            replaced = others | ({ours.id} if ours else set())
            made = self._make(replaced, kept, request_id)
            self._keep(kept, made, wanted)
            self._delete(replaced - {made.id})
            # Check once more, because another run may have stored its own endpoint meanwhile, or
            # deleted this one. Also, Commet may have answered a repeated idempotency key with an
            # endpoint that is deleted by now.
        raise CommetUnavailable(nonsense=True)

    def remove(self, endpoint_id: str | None) -> None:
        """Deletes the endpoint `endpoint_id` and the endpoint whose secret we have.

        Without an id, also deletes every endpoint with our URL, which a failed registration may
        have left.
        """
        gone = {endpoint_id or ""}
        with suppress(Unavailable):  # the stack must be deletable without the secret
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
        """Returns a new endpoint. Two runs of a request that found the same state get the same
        endpoint.
        """
        key = _key(request_id, self.url, *self.events, *sorted(replaced), kept.endpoint_id or "")
        try:
            return self._created(key)
        except CommetRefused as refused:
            if refused.commet_code != "duplicate":
                raise
        # Commet's contract does not promise that two endpoints may have the same address. If Commet
        # refuses the second one, the old one is deleted first.
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
        except BaseException:  # the secret is lost now, so the endpoint is useless
            with suppress(BillingError):  # the next run deletes an endpoint that remains
                self.commet.delete_webhook(made.id, Deadline.after(_UNDO_SECONDS))
            raise

    def _delete(self, endpoint_ids: Iterable[str]) -> None:
        for endpoint_id in sorted(endpoint_ids):
            self.commet.delete_webhook(endpoint_id, self.deadline)


def _key(*parts: str) -> str:
    return f"webhook-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:40]}"
