"""All models of requests of our API."""

import importlib
import pkgutil

from billing.http import shapes
from billing.http.shapes.base import Request


def request_models() -> list[type[Request]]:
    """Those of all modules of `billing.http.shapes`, not those of a function of one's own."""
    for module in pkgutil.iter_modules(shapes.__path__, f"{shapes.__name__}."):
        importlib.import_module(module.name)
    found = [
        model
        for model in Request.__subclasses__()
        if model.__module__.startswith(f"{shapes.__name__}.")
    ]
    assert found
    return found
