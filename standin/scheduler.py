"""The only module in which time causes changes: deadlines, webhook retries, test-clock runs."""

import asyncio
import logging
from datetime import datetime, timedelta

from standin import billing, invoices
from standin.agenda import InvoiceDue, SubscriptionDue, next_due
from standin.clock import iso
from standin.delivery import Courier
from standin.ids import new_id
from standin.models import ClockRun
from standin.store import stamp
from standin.world import World

log = logging.getLogger("commet.scheduler")

_LONGEST_NAP = 30.0
_A_MOMENT = timedelta(milliseconds=20)


class Scheduler:
    """Processes what is due, now and during runs of the test clock."""

    def __init__(self, world: World, courier: Courier) -> None:
        self._world = world
        self._courier = courier
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        world.on_commit = self._wake.set

    def start(self) -> None:
        """Start working. A run that a restart interrupted is continued first."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Stop after the present item."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def request_run(self, target: datetime) -> ClockRun:
        """Ask for the clock to be moved to `target`. The move happens in the background."""
        estimated = self._world.store.subscriptions.count("due_at <= ?", stamp(target))
        run = ClockRun(
            id=new_id("tcr"),
            status="pending",
            started_at=self._world.now(),
            target=target,
            estimated=estimated,
        )
        self._world.store.clock_runs.put(run)
        self._wake.set()
        return run

    def open_run(self) -> ClockRun | None:
        """The oldest run that is not finished."""
        return self._world.store.clock_runs.first("status IN ('pending', 'running')", newest=False)

    async def settle(self, timeout: float) -> bool:  # noqa: ASYNC109 - the answer is a verdict
        """Wait until nothing is due and nothing is running. Returns False if that takes too
        long.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._settled():
                    await self._courier.quiet()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        return True

    def _settled(self) -> bool:
        # Events of one moment are a millisecond apart, so the last ones are due a little later.
        now = self._world.now() + _A_MOMENT
        delivery_at = self._next_delivery_at()
        return not (
            self._courier.busy
            or self.open_run()
            or self._due_before(now)
            or (delivery_at and delivery_at <= now)
        )

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._work_once()
            except Exception:
                log.exception("scheduler.failed")
                await asyncio.sleep(1)
            await self._nap()

    async def _work_once(self) -> None:
        while run := self.open_run():
            await self._carry_out(run)
        while due := self._due_before(self._world.now()):
            self._process(due)
            await asyncio.sleep(0)
        self._courier.launch_due()

    async def _nap(self) -> None:
        timeout = self._nap_seconds()
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return

    def _nap_seconds(self) -> float:
        due = next_due(self._world)
        moments = [self._next_delivery_at(), due.at if due else None]
        waits = [self._world.clock.wall_seconds_until(m) for m in moments if m]
        # At least a millisecond, so that this loop does not spin if a clock rounds down.
        return max(0.001, min([_LONGEST_NAP, *waits]))

    def _due_before(self, moment: datetime) -> SubscriptionDue | InvoiceDue | None:
        due = next_due(self._world)
        return due if due and due.at <= moment else None

    def _next_delivery_at(self) -> datetime | None:
        """Returns when the next delivery that is not being attempted is due."""
        pending = self._world.store.deliveries.find(
            "status = 'pending' AND next_at IS NOT NULL", limit=50, order="next_at, seq"
        )
        waiting = (d.next_at for d in pending if not self._courier.is_under_way(d.id))
        return next(waiting, None)

    def _process(self, due: SubscriptionDue | InvoiceDue) -> list[dict[str, object]]:
        """Process a deadline. Returns entries for a run's report, which lists subscriptions
        only.
        """
        if isinstance(due, InvoiceDue):
            with self._world.transaction():
                invoices.note_overdue(self._world, due.invoice)
            return []
        return [self._process_deadline(due)]

    def _process_deadline(self, due: SubscriptionDue) -> dict[str, object]:
        with self._world.transaction():
            result = billing.process(self._world, due.sub, due.deadline)
        owner = self._world.owner(due.sub)
        return {
            "kind": result.kind,
            "status": "completed",
            "dueAt": iso(due.at),
            "subscriptionId": due.sub.id,
            "customerName": owner.full_name,
            "invoiceNumber": result.invoice.number if result.invoice else None,
            "invoiceId": result.invoice.id if result.invoice else None,
            "outcome": result.outcome,
            "detail": due.kind,
            "error": None,
        }

    async def _carry_out(self, run: ClockRun) -> None:
        """Move the clock from one deadline to the next until the target is reached."""
        await self._courier.quiet()
        run.status = "running"
        self._world.store.clock_runs.put(run)
        self._world.clock.hold(self._world.now())
        try:
            while await self._step(run):
                self._world.keep_clock()
        except Exception as error:
            log.exception("scheduler.run_failed")
            run.status, run.error = "failed", f"{type(error).__name__}: {error}"
        else:
            run.status = "completed"
            self._world.clock.hold(run.target)
        self._world.clock.release()
        self._world.keep_clock()
        self._world.store.clock_runs.put(run)

    async def _step(self, run: ClockRun) -> bool:
        """Process the earliest deadline up to the target. Returns False if there is none."""
        delivery_at = self._next_delivery_at()
        due = next_due(self._world)
        moments = [m for m in (delivery_at, due.at if due else None) if m]
        if not moments or min(moments) > run.target:
            return False
        self._world.clock.hold(min(moments))
        if due and due.at == min(moments):
            run.items += self._process(due)
            self._world.store.clock_runs.put(run)
        else:
            await asyncio.gather(*self._courier.launch_due(), return_exceptions=True)
            await asyncio.sleep(0)
        return True
