"""The address of `make deploy-test`: it knows who waits for a stack."""

import boto3
import pytest
from botocore.exceptions import WaiterError

from tests.deployed.front import is_waiter
from tests.http_server import Request, Response, serving


def test_a_waiter_is_known_by_its_features() -> None:
    """Or each deployment would sleep for half a minute between two looks."""
    agents: list[str] = []

    def answer(request: Request) -> Response:
        agents.append(request.headers["user-agent"])
        return Response(
            b"<DescribeStacksResponse><DescribeStacksResult><Stacks/></DescribeStacksResult>"
            b"</DescribeStacksResponse>"
        )

    with serving(answer) as url:
        client = boto3.client(
            "cloudformation",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.describe_stacks(StackName="s")
        with pytest.raises(WaiterError):
            client.get_waiter("stack_create_complete").wait(
                StackName="s", WaiterConfig={"Delay": 0, "MaxAttempts": 1}
            )
    assert [is_waiter(each) for each in agents] == [False, True]
