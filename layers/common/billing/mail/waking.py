"""Has queued mails sent at once, instead of by the schedule's next run.

A request that has queued a mail invokes the function that sends mails, and does not wait for it to
run. Lambda takes such an invocation in milliseconds. If Lambda does not, the request goes on: the
schedule sends the mail within a minute.
"""

from typing import Any

from aws_lambda_powertools import Logger

logger = Logger(child=True)

# The most that a request waits for Lambda to take the invocation.
_SECONDS = 0.5


class Waker:
    """Invokes the function that sends mails. With an empty `function` it does nothing."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._client: Any = None

    def wake(self) -> None:
        """Has the mails that are due sent now. Raises nothing: the schedule sends them otherwise.

        Call it after the statement that queued a mail was committed.
        """
        if not self._function:
            return
        try:
            self._lambda().invoke(FunctionName=self._function, InvocationType="Event")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the request goes on
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
