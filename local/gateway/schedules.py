"""Fires the template's schedules, faster than AWS would."""

import json
import threading

from local.gateway.events import schedule_event
from local.gateway.functions import Functions, TooManyRequestsError
from local.gateway.template import Schedule, Template, rate_seconds

_MINUTE = 60


class Scheduler:
    """Runs every schedule in a thread of its own, so that none ever overlaps itself.

    `seconds_per_minute` is how long a minute of the schedules takes here: at 2, `rate(1 minute)`
    fires every two seconds and `rate(1 hour)` every two minutes.
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
        """Nothing fires from now on; what runs is not waited for."""
        self._stopping.set()

    def _run(self, schedule: Schedule) -> None:
        pause = rate_seconds(schedule.expression) * self._factor
        while not self._stopping.wait(pause):
            event = json.loads(schedule.payload) if schedule.payload else schedule_event(schedule)
            try:
                self._functions.invoke(schedule.function, event, routine=True)
            except TooManyRequestsError:
                continue  # busy, or stopping
