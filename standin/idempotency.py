"""Stores answers under their Idempotency-Key for 24 hours of simulated time."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from standin.errors import ApiError
from standin.models import StoredAnswer
from standin.store import stamp
from standin.world import World

LIFETIME = timedelta(hours=24)
MAX_KEY_LENGTH = 255
_PRUNE_EVERY = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """A key of a request that is not answered yet."""

    key: str
    fingerprint: str


class IdempotencyStore:
    """Repeats answers. Refuses a key that was used for another request or is still in progress."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._in_progress: set[str] = set()
        self._kept_since_pruning = 0

    def begin(self, key: str, method: str, path: str, body: bytes) -> Claim | StoredAnswer:
        """Returns a claim on the key, or the answer that is stored under it.

        Raises ApiError: idempotency_key_mismatch, idempotency_in_progress.
        """
        digest = hashlib.sha256(body).hexdigest()
        fingerprint = f"{method} {path} {digest}"
        kept = self._world.store.answers.get(key)
        if kept and kept.created_at + LIFETIME > self._world.now():
            if kept.fingerprint != fingerprint:
                raise _mismatch()
            return kept
        if key in self._in_progress:
            raise ApiError(
                "idempotency_in_progress",
                "A request with this Idempotency-Key is still being processed",
            )
        self._in_progress.add(key)
        return Claim(key, fingerprint)

    def keep(self, claim: Claim, status: int, body: bytes) -> None:
        """Store the answer, in the transaction of the request, and delete old answers."""
        now = self._world.now()
        answers = self._world.store.answers
        answers.put(
            StoredAnswer(
                id=claim.key,
                fingerprint=claim.fingerprint,
                status=status,
                body=body.decode(),
                created_at=now,
            )
        )
        self._kept_since_pruning += 1
        if self._kept_since_pruning >= _PRUNE_EVERY:
            self._kept_since_pruning = 0
            answers.delete("created_at < ?", stamp(now - LIFETIME))

    def end(self, claim: Claim) -> None:
        """The request has ended. Its key may be used again."""
        self._in_progress.discard(claim.key)


def _mismatch() -> ApiError:
    return ApiError(
        "idempotency_key_mismatch",
        "This Idempotency-Key was used with a different request",
    )
