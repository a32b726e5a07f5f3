"""Starts the function that sends mails, so that queued mails do not wait for the schedule.

A request that has queued a mail invokes that function, and does not wait until it has run. Lambda
accepts such an invocation in milliseconds. If Lambda does not, the request continues, and the
schedule sends the mail within a minute.
"""

from typing import Any

from aws_lambda_powertools import Logger

logger = Logger(child=True)

# How long a request waits at most until Lambda accepts the invocation.
_SECONDS = 0.5


class Waker:
    """Invokes the function that sends mails. If `function` is empty, does nothing."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._client: Any = None

    def wake(self) -> None:
        """Starts sending the mails that are due. Raises nothing, because the schedule sends them
        otherwise.

        Call it after the statement that queued a mail was committed.
        """
        if not self._function:
            return
        try:
            self._lambda().invoke(FunctionName=self._function, InvocationType="Event")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the request continues
            logger.warning("mail.not_woken", extra={"reason": type(error).__name__})

    def _lambda(self) -> Any:
        if self._client is None:
            import boto3  # most requests queue no mail
            from botocore.config import Config

            self._client = boto3.client(
                "lambda",
                config=Config(
                    connect_timeout=_SECONDS,
                    read_timeout=_SECONDS,
                    retries={"total_max_attempts": 1},
                ),
            )
        return self._client
