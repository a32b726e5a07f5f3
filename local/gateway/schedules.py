"""Fires the template's schedules, faster than AWS does."""

import json
import threading

from local.gateway.events import schedule_event
from local.gateway.functions import Functions, TooManyRequestsError
from local.gateway.template import Schedule, Template, rate_seconds

_MINUTE = 60


class Scheduler:
    """Runs each schedule in its own thread, so that no schedule overlaps itself.

    `seconds_per_minute` says how many seconds a minute of the schedules takes. With 2,
    `rate(1 minute)` fires every two seconds and `rate(1 hour)` every two minutes.
    """

    def __init__(
        self, template: Template, functions: Functions, *, seconds_per_minute: float
    ) -> None:
        self._functions = functions
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
        """Lets no schedule fire any more. Does not wait for running invocations."""
        self._stopping.set()

    def _run(self, schedule: Schedule) -> None:
        pause = rate_seconds(schedule.expression) * self._factor
        while not self._stopping.wait(pause):
            event = json.loads(schedule.payload) if schedule.payload else schedule_event(schedule)
            try:
                self._functions.invoke(schedule.function, event, routine=True)
            except TooManyRequestsError:
                continue  # the function is busy, or the gateway is stopping
