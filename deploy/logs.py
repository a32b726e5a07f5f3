"""The log groups of functions, which CloudFormation keeps when it deletes their stack."""

import re
from collections.abc import Iterable
from pathlib import Path

from botocore.exceptions import ClientError

from deploy.aws import Account, explained
from deploy.parameters import kept_resources


def find(account: Account, stack: str, template: Path) -> list[str]:
    """Returns the log groups that this stack, or an earlier one of the same name, created and left.

    CloudFormation names them <stack>-<logical id>-<letters>. A logical id has no hyphen, so log
    groups of a stack usage-billing-staging are not mistaken for those of usage-billing. Raises
    DeployError.
    """
    ids = "|".join(map(re.escape, kept_resources(template, "AWS::Logs::LogGroup")))
    named = re.compile(rf"{re.escape(stack)}-({ids})-[A-Za-z0-9]+")
    with explained():
        pages = account.client("logs").get_paginator("describe_log_groups")
        return sorted(
            group["logGroupName"]
            for page in pages.paginate(logGroupNamePrefix=f"{stack}-")
            for group in page["logGroups"]
            if named.fullmatch(group["logGroupName"])
        )


def delete(account: Account, groups: Iterable[str]) -> None:
    """Deletes the log groups. A log group that does not exist is no error. Raises DeployError."""
    client = account.client("logs")
    with explained():
        for name in groups:
            try:
                client.delete_log_group(logGroupName=name)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise
