"""A function's environment in this process: what `wiring` keeps for its life, and its end."""

from billing import wiring

# Taken before any test replaces one.
_KEPT = [each for each in vars(wiring).values() if hasattr(each, "cache_clear")]
_database, _commet = wiring.database, wiring.commet


def forget() -> None:
    """Ends the environment: whatever is used next is built anew, as in a cold start."""
    if _database.cache_info().currsize:
        _database().close()
    if _commet.cache_info().currsize:
        _commet()._http.close()
    for kept in _KEPT:
        kept.cache_clear()
