"""What follows when the backend has ended by itself: a pure function."""

from __future__ import annotations

LONGEST_DELAY_SECONDS = 300.0
# Several health probes long, and longer than a backend lives that dies of its first request.
STABLE_SECONDS = 60.0
ATTEMPTS = 3


class Restart:
    """Start it again after `delay_seconds`; `failures` is the count to go on with."""

    __slots__ = ("delay_seconds", "failures")

    def __init__(self, *, delay_seconds: float, failures: int) -> None:
        self.delay_seconds = delay_seconds
        self.failures = failures


class GiveUp:
    """Leave it, and end with `exit_code`."""

    __slots__ = ("exit_code",)

    def __init__(self, *, exit_code: int) -> None:
        self.exit_code = exit_code


def decide(
    *,
    returncode: int,
    ready_seconds: float,
    ever_ready: bool,
    cause_known: bool,
    failures: int,
    first_delay_seconds: float = 5.0,
) -> Restart | GiveUp:
    """What to do about an end that nobody asked for: a failure, whatever its code.

    | ready                    | and                | then                                            |
    |--------------------------|--------------------|-------------------------------------------------|
    | never, in any run        | the cause is known | give up: it would repeat                        |
    | never, in any run        | the third time     | give up: a crash loop                           |
    | for 60 seconds or longer |                    | restart after the first delay; failures = 1     |
    | otherwise                |                    | restart after the first delay × 2 ** failures,  |
    |                          |                    | at most 300 seconds; failures + 1               |

    What was ready once is known to work here, so it is never given up.

    Args:
        returncode: of the backend; -n when signal n killed it.
        ready_seconds: how long this run was ready; 0 if it never was.
        ever_ready: this run or an earlier one was.
        cause_known: its log named a cause of death.
        failures: those before this one, since it last was stable.
        first_delay_seconds: before the first restart.

    Returns:
        The exit code of giving up is the backend's own, 128 + n for signal n, and 1 in place of 0.
    """
    if not ever_ready and (cause_known or failures + 1 >= ATTEMPTS):
        return GiveUp(exit_code=128 - returncode if returncode < 0 else returncode or 1)
    if ready_seconds >= STABLE_SECONDS:
        failures = 0
    delay_seconds = first_delay_seconds * 2.0 ** min(failures, 16)  # no overflow after weeks of failures
    return Restart(delay_seconds=min(delay_seconds, LONGEST_DELAY_SECONDS), failures=failures + 1)
