"""Reads from AWS: the account, its stacks and their resources. Error messages say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
)

from deploy.errors import DeployError

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId"}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack as it is now. `status` is empty if the stack does not exist."""

    name: str
    status: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    updated: str = ""  # when the last update began; empty if there was none

    @property
    def exists(self) -> bool:
        return bool(self.status)


class Account:
    """One account and region. All methods raise DeployError."""

    def __init__(self, region: str | None, *, endpoint: str | None = None) -> None:
        with explained():
            self._session = boto3.Session(region_name=region)
        self._endpoint = endpoint
        if self._session.region_name is None:
            raise DeployError(
                "No region is set: set AWS_DEFAULT_REGION, or region in samconfig.toml."
            )
        self.region = self._session.region_name

    def client(self, service: str) -> Any:
        return self._session.client(service, endpoint_url=self._endpoint)  # type: ignore[call-overload]

    def identity(self) -> str:
        """Returns the account's number and the name of the user or role that is signed in."""
        with explained():
            who = self.client("sts").get_caller_identity()
        return f"{who['Account']} as {who['Arn'].rpartition(':')[2]}"

    def stack(self, name: str) -> Deployed:
        """Returns the stack with this name, with an empty `status` if it does not exist."""
        with explained():
            try:
                (found,) = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
            except ClientError as error:
                if "does not exist" in str(error):
                    return Deployed(name)
                raise
        if found["StackStatus"] == "REVIEW_IN_PROGRESS":
            # Somebody created a change set and never executed it, so the stack does not exist yet.
            return Deployed(name)
        parameters = {p["ParameterKey"]: p["ParameterValue"] for p in found.get("Parameters", [])}
        updated = found.get("LastUpdatedTime")
        return Deployed(
            name, found["StackStatus"], parameters, updated.isoformat() if updated else ""
        )

    def concurrency(self) -> int | None:
        """Returns how many functions the account may run at once; None if AWS does not say."""
        try:
            with explained():
                limits = self.client("lambda").get_account_settings()["AccountLimit"]
        except (DeployError, KeyError):
            return None  # a deployment does not need the right to ask
        return int(limits["ConcurrentExecutions"])

    def resources(self, stack: str, kind: str) -> list[str]:
        """The physical ids of the stack's resources of type `kind`."""
        with explained():
            pages = self.client("cloudformation").get_paginator("list_stack_resources")
            return [
                resource["PhysicalResourceId"]
                for page in pages.paginate(StackName=stack)
                for resource in page["StackResourceSummaries"]
                if resource["ResourceType"] == kind and resource.get("PhysicalResourceId")
            ]


@contextmanager
def explained() -> Iterator[None]:
    """Turns the errors of AWS's SDK into DeployError."""
    try:
        yield
    except (NoCredentialsError, ProfileNotFound) as error:
        raise DeployError(
            f"There are no AWS credentials ({error}). Sign in with aws configure or aws sso login,"
            " or set AWS_PROFILE."
        ) from error
    except (SSOTokenLoadError, TokenRetrievalError) as error:
        raise DeployError("Your AWS sign-in has expired. Run: aws sso login") from error
    except NoRegionError as error:
        raise DeployError("No region is set: set AWS_DEFAULT_REGION.") from error
    except ClientError as error:
        if error.response["Error"]["Code"] in _EXPIRED:
            raise DeployError("Your AWS credentials have expired. Sign in again.") from error
        raise DeployError(f"AWS refused the request: {error}") from error
    except BotoCoreError as error:
        raise DeployError(f"AWS does not answer: {error}") from error
