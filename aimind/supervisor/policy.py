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


class Rules:
    """What the user asked for.

    Attributes:
        restart: `always`, `on-failure` or `never`.
        max_restarts: in a row, without a stable while between them; `None` for no limit.
        first_delay_seconds: before the first restart.
    """

    __slots__ = ("first_delay_seconds", "max_restarts", "restart")

    def __init__(
        self, *, restart: str = "always", max_restarts: int | None = None, first_delay_seconds: float = 5.0
    ) -> None:
        self.restart = restart
        self.max_restarts = max_restarts
        self.first_delay_seconds = first_delay_seconds


ALWAYS = Rules()


def decide(
    *,
    returncode: int,
    ready_seconds: float,
    ever_ready: bool,
    cause_known: bool,
    failures: int,
    rules: Rules = ALWAYS,
) -> Restart | GiveUp:
    """What to do about an end that nobody asked for: the first line that holds.

    | the rules          | ready                    | and                | then                             |
    |--------------------|--------------------------|--------------------|----------------------------------|
    | restart on failure |                          | the code is 0      | end with 0                       |
    | restart never      |                          |                    | give up                          |
    |                    | never, in any run        | the cause is known | give up: it would repeat         |
    |                    | never, in any run        | the third time     | give up: a crash loop            |
    | so many restarts   | for less than 60 seconds | that many failures | give up                          |
    |                    | for 60 seconds or longer |                    | restart after the first delay;   |
    |                    |                          |                    | failures = 1                     |
    |                    | otherwise                |                    | restart after the first delay    |
    |                    |                          |                    | × 2 ** failures, at most 300 s;  |
    |                    |                          |                    | failures + 1                     |

    To restart always is to take any end for a failure, whatever its code: some backends exit with 0 when
    their engine has died. What was ready once is known to work here: only the rules give it up.

    Args:
        returncode: of the backend; -n when signal n killed it.
        ready_seconds: how long this run was ready; 0 if it never was.
        ever_ready: this run or an earlier one was.
        cause_known: its log named a cause of death.
        failures: those before this one, since it last was stable.
        rules: what the user asked for.

    Returns:
        The exit code of giving up is the backend's own, 128 + n for signal n, and 1 in place of 0.
    """
    if rules.restart == "on-failure" and returncode == 0:
        return GiveUp(exit_code=0)
    if ready_seconds >= STABLE_SECONDS:
        failures = 0
    hopeless = not ever_ready and (cause_known or failures + 1 >= ATTEMPTS)
    enough = rules.max_restarts is not None and failures >= rules.max_restarts
    if hopeless or enough or rules.restart == "never":
        return GiveUp(exit_code=128 - returncode if returncode < 0 else returncode or 1)
    delay_seconds = rules.first_delay_seconds * 2.0 ** min(
        failures, 16
    )  # no overflow after weeks of failures
    return Restart(delay_seconds=min(delay_seconds, LONGEST_DELAY_SECONDS), failures=failures + 1)
