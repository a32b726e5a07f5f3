"""Deleting old versions, at moto's Lambda and CloudFormation."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from deploy import prune
from deploy.aws import Account
from deploy.errors import DeployError
from tests.conftest import SecretsManager

REGION = "eu-central-1"


@pytest.fixture
def account(secrets_manager: SecretsManager) -> Account:
    """moto serves all of AWS at one address."""
    return Account(REGION, endpoint=secrets_manager.url)


def code(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", text)
    return packed.getvalue()


class Stack:
    """A stack with one function and one layer, deployed as often as one likes."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.name = f"stack-{uuid4().hex[:8]}"
        self.lambda_ = account.client("lambda")
        role = account.client("iam").create_role(
            RoleName=self.name, AssumeRolePolicyDocument="{}", Path="/"
        )
        self.layer = f"{self.name}-common"
        self.function = f"{self.name}-fn"
        account.client("s3").create_bucket(
            Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        account.client("s3").put_object(Bucket=self.name, Key="code", Body=code("1"))
        location = {"S3Bucket": self.name, "S3Key": "code"}
        template = {
            "Resources": {
                "Function": {
                    "Type": "AWS::Lambda::Function",
                    "Properties": {
                        "FunctionName": self.function,
                        "Role": role["Role"]["Arn"],
                        "Runtime": "python3.13",
                        "Handler": "app.handler",
                        "Layers": [self.publish_layer(1)],
                        "Code": location,
                    },
                },
            }
        }
        account.client("cloudformation").create_stack(
            StackName=self.name, TemplateBody=json.dumps(template)
        )
        self.lambda_.publish_version(FunctionName=self.function)
        self.lambda_.create_alias(FunctionName=self.function, Name="live", FunctionVersion="1")

    def publish_layer(self, number: int) -> str:
        published = self.lambda_.publish_layer_version(
            LayerName=self.layer, Content={"ZipFile": code(f"layer {number}")}
        )
        return str(published["LayerVersionArn"])

    def deploy(self, number: int) -> None:
        """Another layer, another version, and the alias points to it."""
        self.lambda_.update_function_configuration(
            FunctionName=self.function, Layers=[self.publish_layer(number)]
        )
        self.lambda_.update_function_code(
            FunctionName=self.function, ZipFile=code(f"function {number}")
        )
        version = self.lambda_.publish_version(FunctionName=self.function)["Version"]
        self.point(version)

    def point(self, version: str, **weights: float) -> None:
        self.lambda_.update_alias(
            FunctionName=self.function,
            Name="live",
            FunctionVersion=version,
            RoutingConfig={"AdditionalVersionWeights": {k[1:]: w for k, w in weights.items()}},
        )

    def versions(self) -> list[str]:
        listed = self.lambda_.list_versions_by_function(FunctionName=self.function)["Versions"]
        return sorted(v["Version"] for v in listed if v["Version"] != "$LATEST")

    def layers(self) -> list[int]:
        listed = self.lambda_.list_layer_versions(LayerName=self.layer)["LayerVersions"]
        return sorted(v["Version"] for v in listed)


@pytest.fixture
def stack(account: Account) -> Stack:
    """Deployed five times."""
    made = Stack(account)
    for number in range(2, 6):
        made.deploy(number)
    assert (made.versions(), made.layers()) == (["1", "2", "3", "4", "5"], [1, 2, 3, 4, 5])
    return made


Pruned = Callable[[int], Any]


@pytest.fixture
def pruned(account: Account, stack: Stack) -> Pruned:
    def run(keep: int) -> prune.Unneeded:
        found = prune.find(account, stack.name, keep)
        prune.delete(account, found)
        return found

    return run


class TestPrune:
    def test_the_newest_stay(self, stack: Stack, pruned: Pruned) -> None:
        found = pruned(2)
        assert found.functions == {stack.function: ["1", "2", "3"]}
        assert found.layers == {stack.layer: [1, 2, 3]}
        assert found.count == 6
        assert (stack.versions(), stack.layers()) == (["4", "5"], [4, 5])

    def test_again(self, pruned: Pruned) -> None:
        pruned(2)
        assert pruned(2).count == 0

    def test_what_is_pointed_to_stays(self, stack: Stack, pruned: Pruned) -> None:
        """After a rollback the alias is behind; so is the layer that version stands on."""
        stack.point("2")
        pruned(1)
        assert (stack.versions(), stack.layers()) == (["2", "5"], [2, 5])

    def test_what_takes_a_part_of_the_traffic_stays(self, stack: Stack, pruned: Pruned) -> None:
        """A canary is under way."""
        stack.point("5", v3=0.9)
        pruned(1)
        assert stack.versions() == ["3", "5"]

    def test_somebody_was_faster(self, account: Account, stack: Stack) -> None:
        found = prune.find(account, stack.name, 1)
        prune.delete(account, found)
        prune.delete(account, found)
        assert stack.versions() == ["5"]

    def test_the_one_in_use_cannot_go(self, account: Account, stack: Stack) -> None:
        with pytest.raises(ValueError, match="in use"):
            prune.find(account, stack.name, 0)

    def test_another_stack_is_left_alone(self, account: Account, pruned: Pruned) -> None:
        other = Stack(account)
        other.deploy(2)
        pruned(1)
        assert (other.versions(), other.layers()) == (["1", "2"], [1, 2])

    def test_no_such_stack(self, account: Account) -> None:
        with pytest.raises(DeployError, match="does not exist"):
            prune.find(account, "nowhere", 1)
