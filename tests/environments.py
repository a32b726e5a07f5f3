"""A function's environment in this process: what `wiring` keeps for its life, and its end."""

from collections.abc import Callable

from billing import wiring
from billing.database.connection import Database

# Taken before any test replaces one.
_KEPT = [each for each in vars(wiring).values() if hasattr(each, "cache_clear")]
_identity_tokens = wiring.identity_tokens
_database, _clients = wiring.database, (wiring.commet, wiring.metered_commet)
# What becomes of the connection. Handler tests keep it for the next environment.
leave: Callable[[Database], None] = Database.close


def forget() -> None:
    """Ends the environment: whatever is used next is built anew, as in a cold start."""
    if _database.cache_info().currsize:
        leave(_database())
    for client in _clients:
        if client.cache_info().currsize:
            client()._http.close()
    if _identity_tokens.cache_info().currsize:
        _identity_tokens()._keys._http.close()
    for kept in _KEPT:
        kept.cache_clear()
