"""The policy: its table by example, and the laws of its delays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.supervisor.policy import ATTEMPTS, STABLE_SECONDS, GiveUp, Restart, Rules, decide

failures = st.integers(min_value=0, max_value=100_000)
delays = st.floats(min_value=0.001, max_value=1000)
returncodes = st.integers(min_value=-64, max_value=255)


def after(failures: int, *, ready_seconds: float = 1.0, first_delay_seconds: float = 5.0) -> Restart:
    """What follows for a backend that was ready."""
    decision = decide(
        returncode=0,
        ready_seconds=ready_seconds,
        ever_ready=True,
        cause_known=False,
        failures=failures,
        rules=Rules(first_delay_seconds=first_delay_seconds),
    )
    assert isinstance(decision, Restart)
    return decision


def test_the_delays_are_those_that_are_promised() -> None:
    assert [after(n).delay_seconds for n in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]


@given(failures, delays)
def test_more_failures_never_shorten_the_delay(failures: int, first: float) -> None:
    """Law: delay(n) <= delay(n + 1)."""
    shorter = after(failures, first_delay_seconds=first).delay_seconds
    assert shorter <= after(failures + 1, first_delay_seconds=first).delay_seconds


@given(failures, st.floats(min_value=0, max_value=1e9), delays)
def test_the_delay_is_bounded(failures: int, ready_seconds: float, first: float) -> None:
    """Law: 0 < delay <= 300."""
    decision = after(failures, ready_seconds=ready_seconds, first_delay_seconds=first)
    assert 0 < decision.delay_seconds <= 300


@given(failures, st.floats(min_value=STABLE_SECONDS, max_value=1e9))
def test_a_stable_while_forgets_all_failures(failures: int, ready_seconds: float) -> None:
    """What was ready for a minute is treated as if it had never failed before."""
    decision = after(failures, ready_seconds=ready_seconds)
    assert (decision.delay_seconds, decision.failures) == (5, 1)


@given(failures, st.floats(min_value=0, max_value=STABLE_SECONDS, exclude_max=True))
def test_a_short_while_counts_on(failures: int, ready_seconds: float) -> None:
    assert after(failures, ready_seconds=ready_seconds).failures == failures + 1


@given(returncodes, failures, st.booleans())
def test_what_was_ready_once_is_never_given_up(returncode: int, failures: int, cause_known: bool) -> None:
    decision = decide(
        returncode=returncode, ready_seconds=0, ever_ready=True, cause_known=cause_known, failures=failures
    )
    assert isinstance(decision, Restart)


@given(returncodes, failures, st.booleans())
def test_giving_up_is_never_a_success(returncode: int, failures: int, cause_known: bool) -> None:
    """An exit that nobody asked for is a failure, whatever its code."""
    decision = decide(
        returncode=returncode, ready_seconds=0, ever_ready=False, cause_known=cause_known, failures=failures
    )
    if isinstance(decision, GiveUp):
        assert 0 < decision.exit_code < 256
    else:
        assert not cause_known
        assert decision.failures < ATTEMPTS


@pytest.mark.parametrize(
    ("returncode", "exit_code"), [(0, 1), (1, 1), (3, 3), (255, 255), (-9, 137), (-15, 143)]
)
def test_the_exit_code_is_the_backends_own(returncode: int, exit_code: int) -> None:
    decision = decide(returncode=returncode, ready_seconds=0, ever_ready=False, cause_known=True, failures=0)
    assert isinstance(decision, GiveUp)
    assert decision.exit_code == exit_code


def test_it_tries_three_times() -> None:
    kinds = [
        type(decide(returncode=1, ready_seconds=0, ever_ready=False, cause_known=False, failures=n))
        for n in range(ATTEMPTS)
    ]
    assert kinds == [Restart, Restart, GiveUp]


@given(returncodes, failures, st.booleans(), st.booleans())
def test_never_is_never(returncode: int, failures: int, ever_ready: bool, cause_known: bool) -> None:
    decision = decide(
        returncode=returncode,
        ready_seconds=1e6,
        ever_ready=ever_ready,
        cause_known=cause_known,
        failures=failures,
        rules=Rules(restart="never"),
    )
    assert isinstance(decision, GiveUp)
    assert 0 < decision.exit_code < 256


@pytest.mark.parametrize(("returncode", "exit_code"), [(0, 0), (3, None), (-9, None)])
def test_on_failure_takes_0_for_done(returncode: int, exit_code: int | None) -> None:
    decision = decide(
        returncode=returncode,
        ready_seconds=1,
        ever_ready=True,
        cause_known=False,
        failures=0,
        rules=Rules(restart="on-failure"),
    )
    assert (decision.exit_code if isinstance(decision, GiveUp) else None) == exit_code


@given(st.integers(0, 10), st.floats(0, 120))
def test_so_many_restarts_in_a_row_and_no_more(limit: int, ready_seconds: float) -> None:
    """Law: with a limit of N there are N restarts, unless one of them was stable."""
    failures, restarts = 0, 0
    while restarts <= limit + 1:
        decision = decide(
            returncode=1,
            ready_seconds=ready_seconds,
            ever_ready=True,
            cause_known=False,
            failures=failures,
            rules=Rules(max_restarts=limit),
        )
        if isinstance(decision, GiveUp):
            break
        failures, restarts = decision.failures, restarts + 1
    stable = ready_seconds >= STABLE_SECONDS and limit > 0
    assert restarts == (limit + 2 if stable else limit)
