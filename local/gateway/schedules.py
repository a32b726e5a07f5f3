"""Fires the template's schedules, faster than AWS does."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta

from local.gateway.events import schedule_event
from local.gateway.functions import Functions, TooManyRequestsError
from local.gateway.sidecar import Clock
from local.gateway.template import Schedule, Template, rate_seconds

_MINUTE = 60
# How often a schedule checks whether the clock was moved. A schedule that fires sooner need not
# check.
_LOOK_SECONDS = 5.0


class Scheduler:
    """Runs each schedule in its own thread, so that no schedule overlaps itself.

    `seconds_per_minute` is how many seconds a minute of the schedules takes. With 2, `rate(1
    minute)` fires every two seconds and `rate(1 hour)` every two minutes. A schedule also fires if
    `clock`, the time of the functions, was moved ahead by the schedule's interval.
    """

    def __init__(
        self,
        template: Template,
        functions: Functions,
        *,
        seconds_per_minute: float,
        clock: Clock | None = None,
    ) -> None:
        self._functions = functions
        self._clock = clock
        self._factor = seconds_per_minute / _MINUTE
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(schedule,), name=schedule.name, daemon=True)
            for schedule in template.schedules
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops all schedules. Does not wait for running invocations."""
        self._stopping.set()

    def _run(self, schedule: Schedule) -> None:
        rate = rate_seconds(schedule.expression)
        while self._wait(rate * self._factor, timedelta(seconds=rate)):
            event = json.loads(schedule.payload) if schedule.payload else schedule_event(schedule)
            try:
                self._functions.invoke(schedule.function, event, routine=True)
            except TooManyRequestsError:
                continue  # the function is busy, or the gateway is stopping

    def _wait(self, pause: float, moved: timedelta) -> bool:
        """Waits for `pause` seconds, or until the clock was moved by `moved`.

        Returns False once `stop` was called.
        """
        end, before = time.monotonic() + pause, self._ahead()
        while (left := end - time.monotonic()) > 0:
            if self._stopping.wait(min(left, _LOOK_SECONDS)):
                return False
            if left > _LOOK_SECONDS and self._ahead() - before >= moved:
                return True
        return not self._stopping.is_set()

    def _ahead(self) -> timedelta:
        """Returns how far the functions' clock is ahead of this machine's."""
        if self._clock is None:
            return timedelta()
        return datetime.fromisoformat(self._clock()) - datetime.now(UTC)
