"""API Gateway's order: most specific, then greedy, then $default."""

import pytest

from local.gateway.routing import Match, Router
from local.gateway.template import Route


def routes(*keys: str) -> list[Route]:
    """One route per key, its function named after it."""
    found = []
    for key in keys:
        method, _, path = key.rpartition(" ")
        found.append(Route(method or "ANY", path, key))
    return found


@pytest.mark.parametrize(
    ("method", "path", "chosen", "parameters"),
    [
        ("GET", "/pets/dog", "GET /pets/dog", {}),
        ("GET", "/pets/cat", "GET /pets/{id}", {"id": "cat"}),
        ("GET", "/pets/a b", "GET /pets/{id}", {"id": "a b"}),
        ("GET", "/pets/cat/toys", "GET /pets/{rest+}", {"rest": "cat/toys"}),
        ("GET", "/pets/cat/", "GET /pets/{rest+}", {"rest": "cat/"}),
        ("GET", "/pets/", "ANY /{proxy+}", {"proxy": "pets/"}),
        ("GET", "/pets", "ANY /{proxy+}", {"proxy": "pets"}),
        ("PUT", "/pets/dog", "ANY /{proxy+}", {"proxy": "pets/dog"}),
        ("HEAD", "/pets/dog", "ANY /{proxy+}", {"proxy": "pets/dog"}),
        ("GET", "/", "$default", {}),
        ("DELETE", "/any", "ANY /any", {}),
        ("POST", "/any", "POST /any", {}),
    ],
)
def test_the_most_specific_route_wins(
    method: str, path: str, chosen: str, parameters: dict[str, str]
) -> None:
    """Whatever the order in the template, the same route answers as in AWS."""
    keys = (
        "$default",
        "ANY /{proxy+}",
        "GET /pets/{rest+}",
        "GET /pets/{id}",
        "GET /pets/dog",
        "ANY /any",
        "POST /any",
    )
    for order in (keys, tuple(reversed(keys))):
        match = Router(routes(*order)).match(method, path)
        assert match is not None
        assert (match.route.function, match.path_parameters) == (chosen, parameters)


@pytest.mark.parametrize("path", ["/plans/", "/plan", "/plansx", "//plans", "/plans/1"])
def test_a_path_matches_exactly_or_not_at_all(path: str) -> None:
    """A trailing slash is another path, as it is for API Gateway."""
    assert Router(routes("GET /plans")).match("GET", path) is None


def test_dots_in_a_path_are_literal() -> None:
    """A path is no regular expression."""
    router = Router(routes("GET /a.b"))
    assert router.match("GET", "/axb") is None
    assert router.match("GET", "/a.b") == Match(routes("GET /a.b")[0], {})
