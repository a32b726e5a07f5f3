"""What functions that CloudFormation calls are tested with."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.http_server import Request, Response, serving


@dataclass
class CloudFormation:
    """Takes answers at a presigned address, as S3 does: for no content type.

    The next `refuses` answers meet a 503.
    """

    url: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    content_types: list[str | None] = field(default_factory=list)
    refuses: int = 0

    def event(
        self,
        kind: str,
        resource_id: str | None = None,
        *,
        request_id: str = "request-1",
        logical_id: str = "Resource",
        **properties: str,
    ) -> dict[str, Any]:
        """What CloudFormation sends to the function of a custom resource."""
        event = {
            "RequestType": kind,
            "ResponseURL": self.url,
            "StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/billing/1",
            "RequestId": request_id,
            "LogicalResourceId": logical_id,
            "ResourceProperties": {"ServiceToken": "arn:function"} | properties,
        }
        return event | ({"PhysicalResourceId": resource_id} if resource_id else {})

    @property
    def answer(self) -> dict[str, Any]:
        """The one that was given; there must not be a second."""
        (answer,) = self.answers
        self.answers.clear()
        return answer


@dataclass
class Context:
    """Of an invocation that ends in so many seconds: as much as we and Powertools read of it."""

    seconds: float = 60.0
    aws_request_id: str = "invocation-1"
    function_name: str = "test"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:1:function:test"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    stack = CloudFormation()

    def take(request: Request) -> Response:
        if stack.refuses:
            stack.refuses -= 1
            return Response(status=503)
        stack.content_types.append(request.headers.get("content-type"))
        stack.answers.append(json.loads(request.body))
        return Response()

    with serving(take) as url:
        stack.url = f"{url}/answer"
        yield stack
