"""python -m tests.mutants: puts each mutant in and ends with 1 unless a test notices every one."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from fnmatch import fnmatchcase
from queue import SimpleQueue

from tests.mutants.catalogue import Mutant, NotAMutant, read
from tests.mutants.runner import Outcome, Scratch, Verdict, scratch, tests_of


def main() -> int:
    arguments = _arguments()
    try:
        chosen = _chosen(read(), arguments.only)
    except NotAMutant as problem:
        print(problem, file=sys.stderr)
        return 2
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name}\n    {mutant.file}: {mutant.breaks}")
        return 0
    with ExitStack() as stack:
        copies = [
            stack.enter_context(scratch()) for _ in range(min(arguments.workers, len(chosen)))
        ]
        if not _pass_without(chosen, copies[0], len(copies), arguments.timeout):
            return 1
        verdicts = _judge(chosen, copies, arguments.timeout)
    return report(verdicts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="judge this mutant alone; may be given several times, and be a pattern (alarm-*)",
    )
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="at a time (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=180.0, metavar="S", help="for each mutant (%(default)s)"
    )
    return parser.parse_args()


def _chosen(mutants: list[Mutant], only: list[str] | None) -> list[Mutant]:
    if only is None:
        return mutants
    for pattern in only:
        if not any(fnmatchcase(mutant.name, pattern) for mutant in mutants):
            raise NotAMutant(f"No mutant is named {pattern}; --list says what there is.")
    return [m for m in mutants if any(fnmatchcase(m.name, pattern) for pattern in only)]


def _pass_without(mutants: list[Mutant], copy: Scratch, workers: int, timeout: float) -> bool:
    """Whether the tests pass with no fault in: if not, their failing would say nothing."""
    tests = tests_of(mutants)
    print(f"Without a fault: {len(tests)} tests, classes or files that have to pass", flush=True)
    parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
    run = copy.run([*parallel, *tests], timeout=timeout * len(mutants))
    if run.code != 0:
        print(run.output or "They did not end in time.")
        print("The tests do not pass without a fault: nothing was judged.")
    return run.code == 0


def _judge(mutants: list[Mutant], copies: list[Scratch], timeout: float) -> list[Verdict]:
    """What became of each mutant, in the order of their ends; says so as it goes."""
    free: SimpleQueue[Scratch] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            return copy.judge(mutant, timeout=timeout)
        finally:
            free.put(copy)

    done: list[Verdict] = []
    with ThreadPoolExecutor(len(copies)) as pool:
        runs = [pool.submit(judge, mutant) for mutant in mutants]
        try:
            for run in as_completed(runs):
                done.append(run.result())
                _say(done, len(mutants))
        except BaseException:  # Ctrl-C: runs that have not begun are left out, the others ended
            pool.shutdown(wait=False, cancel_futures=True)
            for copy in copies:
                copy.stop()
            raise
    return done


def _say(done: Sequence[Verdict], of: int) -> None:
    last = done[-1]
    by = f" by {last.detail}" if last.outcome is Outcome.KILLED else ""
    counted = f"[{len(done)}/{of}]"
    print(f"{counted} {last.outcome:<9} {last.mutant.name} ({last.seconds:.0f} s){by}", flush=True)


def report(verdicts: Sequence[Verdict]) -> int:
    """Says what was not noticed; the exit code."""
    red = [verdict for verdict in verdicts if verdict.outcome is not Outcome.KILLED]
    for verdict in red:
        print(f"\n{verdict.outcome.upper()}: {verdict.mutant.name} in {verdict.mutant.file}")
        print(f"  would break: {verdict.mutant.breaks}")
        print("  " + verdict.detail.strip().replace("\n", "\n  "))
    print(f"\n{len(verdicts) - len(red)} of {len(verdicts)} mutants were noticed.")
    return 1 if red else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
