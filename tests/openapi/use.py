"""Reports a batch and checks a quantity with the client that openapi-python-client generates."""

import json
import os

from generated import AuthenticatedClient
from generated.api.usage import check_usage, report_usage
from generated.models import Problem, UsageAllowed, UsageBatch, UsageCheck, UsageEvent, UsageTaken

client = AuthenticatedClient(
    base_url=os.environ["BILLING_URL"],
    token=os.environ["BILLING_KEY"],
    httpx_args={"trust_env": False},
)
user = os.environ["BILLING_USER"]


def event(quantity: str, key: str) -> UsageEvent:
    return UsageEvent(user_id=user, feature="storage", quantity=quantity, idempotency_key=key)


with client:
    batch = report_usage.sync(
        client=client,
        body=UsageBatch(events=[event("3", "py-1"), event("3", "py-1"), event("0", "py-2")]),
    )
    assert isinstance(batch, UsageTaken)
    checked = check_usage.sync(
        client=client, body=UsageCheck(feature="storage", quantity="1", user_id=user)
    )
    assert isinstance(checked, UsageAllowed)
    refused = check_usage.sync(client=client, body=UsageCheck(feature="storage"))
    assert isinstance(refused, Problem)

print(
    json.dumps(
        {
            "verdicts": [[each.status, each.code] for each in batch.results],
            "wrong": batch.results[2].errors[0].field,
            "allowed": checked.allowed,
            "remaining": checked.remaining,
            "problem": refused.code,
        }
    )
)
