"""The webhook signature."""

import pytest

from standin.delivery import sign

SECRET = "whsec_test_4f1a"


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (
            '{"id":"whev_01","event":"subscription.activated","data":{"customerId":"usr_8f2c"}}',
            "d5ac4f2f6531255d251fb00cd0aba8e0ae61f85a917fb42e926ef29c06209fe0",
        ),
        (
            '{"name":"Peña ✓"}',
            "99a7e7a827ba4a9efaa8d89576b0aed69051cb838cb5aff7460b5bdf16821481",
        ),
    ],
)
def test_the_published_vectors(body: str, signature: str) -> None:
    """Keyed with the whole secret, prefix included, over the raw bytes."""
    assert sign(body.encode(), SECRET) == signature
