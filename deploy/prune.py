"""Deletes old versions of functions and layers. A deployment publishes new ones and deletes none.

Three kinds of versions remain: the newest, those that an alias points to (also for a part of the
traffic, while it is being shifted), and the layers that a remaining function version uses.
"""

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deploy.aws import Account, explained


@dataclass(frozen=True, slots=True)
class Unneeded:
    """The versions to delete, by function name and by layer name."""

    functions: dict[str, list[str]]
    layers: dict[str, list[int]]

    @property
    def count(self) -> int:
        return sum(map(len, self.functions.values())) + sum(map(len, self.layers.values()))


def find(account: Account, stack: str, keep: int) -> Unneeded:
    """Finds the versions to delete, except the newest `keep` of each. Raises DeployError."""
    if keep < 1:
        raise ValueError("keep must be at least 1: the version in use cannot be deleted.")
    client = account.client("lambda")
    functions: dict[str, list[str]] = {}
    used: set[str] = set()
    with explained():
        for name in account.resources(stack, "AWS::Lambda::Function"):
            versions = _versions(client, name)
            kept = {v["Version"] for v in versions[-keep:]} | _aliased(client, name)
            functions[name] = [v["Version"] for v in versions if v["Version"] not in kept]
            newest = client.get_function_configuration(FunctionName=name)
            for version in [newest, *(v for v in versions if v["Version"] in kept)]:
                used |= {layer["Arn"] for layer in version.get("Layers", [])}
        layer = f"{stack}-common"  # the layer's name in template.yaml
        unused = [
            version["Version"]
            for version in _layer_versions(client, layer)[:-keep]
            if version["LayerVersionArn"] not in used
        ]
    found = {name: versions for name, versions in functions.items() if versions}
    return Unneeded(found, {layer: unused} if unused else {})


def delete(account: Account, unneeded: Unneeded) -> None:
    """Deletes the versions. A version that does not exist is no error. Raises DeployError."""
    client = account.client("lambda")
    with explained():
        for name, versions in unneeded.functions.items():
            for version in versions:
                _gone(client.delete_function, FunctionName=name, Qualifier=version)
        for name, numbers in unneeded.layers.items():
            for number in numbers:
                _gone(client.delete_layer_version, LayerName=name, VersionNumber=number)


def _gone(call: Any, **arguments: object) -> None:
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise


def _versions(client: Any, function: str) -> list[dict[str, Any]]:
    """The function's published versions, oldest first."""
    pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    listed = [version for page in pages for version in page["Versions"]]
    return sorted(
        (each for each in listed if each["Version"] != "$LATEST"), key=lambda v: int(v["Version"])
    )


def _aliased(client: Any, function: str) -> set[str]:
    pages = client.get_paginator("list_aliases").paginate(FunctionName=function)
    aliases = [alias for page in pages for alias in page["Aliases"]]
    shifting = [a.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}) for a in aliases]
    return {a["FunctionVersion"] for a in aliases} | {
        version for each in shifting for version in each
    }


def _layer_versions(client: Any, layer: str) -> list[dict[str, Any]]:
    """The layer's versions, oldest first."""
    pages = client.get_paginator("list_layer_versions").paginate(LayerName=layer)
    listed = [version for page in pages for version in page["LayerVersions"]]
    return sorted(listed, key=lambda v: int(v["Version"]))
