"""Finds the route of an HTTP API that answers a request."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from local.gateway.template import ANY, DEFAULT_ROUTE, Route

_VARIABLE = re.compile(r"\{([^}+]+)(\+?)\}")


@dataclass(frozen=True)
class Match:
    """The chosen route, and the path parameters in the request's path."""

    route: Route
    path_parameters: dict[str, str]


class Router:
    """Chooses a route like API Gateway.

    The most specific route comes first, then a greedy one, then `$default`. Paths and methods must
    be equal: `/plans/` is not `/plans`, and HEAD is not GET.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._default: Route | None = None
        candidates = []
        for route in routes:
            if route.path == DEFAULT_ROUTE:
                self._default = route
            else:
                candidates.append((_specificity(route), _pattern(route.path), route))
        candidates.sort(key=lambda candidate: candidate[0])
        self._candidates = [(pattern, route) for _, pattern, route in candidates]

    def match(self, method: str, path: str) -> Match | None:
        """Returns the route for this request, or None if API Gateway answers 404."""
        for pattern, route in self._candidates:
            if route.method in {method, ANY} and (found := pattern.fullmatch(path)):
                names = [name for name, _ in _VARIABLE.findall(route.path)]
                return Match(route, dict(zip(names, found.groups(), strict=True)))
        return Match(self._default, {}) if self._default else None


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for variable in _VARIABLE.finditer(path):
        parts += [re.escape(path[at : variable.start()]), "(.+)" if variable[2] else "([^/]+)"]
        at = variable.end()
    return re.compile("".join([*parts, re.escape(path[at:])]), re.DOTALL)


def _specificity(route: Route) -> tuple[bool, list[bool], bool]:
    """Returns a route's sort key: literal segments before variables, a named method before ANY."""
    segments = [bool(_VARIABLE.search(segment)) for segment in route.path.split("/")]
    return "+}" in route.path, segments, route.method == ANY
