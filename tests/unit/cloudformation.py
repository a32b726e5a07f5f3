"""Templates as tests read them: as written, and as SAM deploys them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from samtranslator.public.translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"

Resources = dict[str, dict[str, Any]]


class _Loader(yaml.CSafeLoader):
    """Reads CloudFormation's short forms: !Ref X becomes {"Ref": "X"}."""


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> object:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: object = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


_Loader.add_multi_constructor("!", _intrinsic)


def load(path: Path) -> dict[str, Any]:
    loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    assert isinstance(loaded, dict)
    return loaded


def translate(template: dict[str, Any], parameters: Mapping[str, str] | None = None) -> Resources:
    """CloudFormation's resources, as SAM makes them of a template that has been packaged."""
    os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")
    packaged = json.loads(json.dumps(template))
    for resource in packaged["Resources"].values():
        for key in ("CodeUri", "ContentUri"):
            if key in resource.get("Properties", {}):
                resource["Properties"][key] = "s3://bucket/key"
    # CloudFormation hands a list over as one.
    values = {"BuildId": "0123456789abcdef", "AllowedOrigins": ["https://a.example"]}

    class NoPolicies(ManagedPolicyLoader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            """Asks IAM nothing."""

        def load(self) -> dict[str, str]:
            return {}

    resources = transform(packaged, values | dict(parameters or {}), NoPolicies())["Resources"]
    assert isinstance(resources, dict)
    return resources


def app_of(function: Mapping[str, Any]) -> Path:
    """The file with a function's handler. Pages and the operators' page share a folder."""
    name = str(function.get("Handler", "app.handler")).partition(".")[0]
    return ROOT / str(function["CodeUri"]) / f"{name}.py"


def called(function: Mapping[str, Any]) -> str:
    """What a function calls itself: its folder, or its file where that is not `app.py`."""
    app = app_of(function)
    return app.parent.name if app.stem == "app" else app.stem


def of_type(resources: Resources, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of all resources of a type, by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in resources.items()
        if resource["Type"] == kind
    }
