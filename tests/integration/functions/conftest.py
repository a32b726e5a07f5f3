"""The functions run on the same databases as the modules of the layer."""

from tests.integration.billing.conftest import (  # noqa: F401 - fixtures
    client,
    commet,
    commet_server,
    connect,
    database_url,
    db,
    migrated_url,
    remote,
    shared,
    subscribe,
    user,
)
