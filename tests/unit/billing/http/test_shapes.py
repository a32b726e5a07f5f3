"""What bodies are, before anything is done with them."""

from billing.http.shapes.signing_in import SignIn


def test_no_body_is_written_out() -> None:
    """What formats a body for a log learns its kind and nothing in it."""
    body = SignIn(email="ana@example.com", password="correct horse")
    assert (str(body), repr([body])) == ("SignIn(...)", "[SignIn(...)]")
