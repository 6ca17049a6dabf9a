"""One test for all backends that run here: planned, started, asked, weighed, ended, and nothing left.

By the real command line, on tiny models (`cases.py`).
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from aimind.launchers import llama_cpp_python, llama_server
from aimind.types import Package
from tests.leftovers import nothing_left
from tests.live import debian
from tests.live.cases import CASES, Case
from tests.live.served import Served, brought, fail_to_serve, plan, serve, shell
from tests.samples import host
from tests.supervisor.harness import LINUX, ask_each

pytestmark = [pytest.mark.live, LINUX]


@pytest.fixture
def model(case: Case, request: pytest.FixtureRequest) -> Path:
    """The case's, once its backend can be here."""
    if case.launcher is llama_server and not debian.can_be_had():
        pytest.skip("needs Debian's packages for x86-64")
    if case.launcher is llama_cpp_python:
        source = llama_cpp_python.source(host())
        assert isinstance(source, Package)
        brought(llama_cpp_python.NAME, source)
    path = request.getfixturevalue(case.model)
    assert isinstance(path, Path)
    return path


@contextmanager
def started(case: Case, model: Path, sound: Path) -> Iterator[tuple[Served, Mapping[str, str]]]:
    """Planned, ready, asked and weighed; after what is done then, nothing of it may be left."""
    with nothing_left() as variables:
        env = {**case.env, **variables}
        decided = plan(str(model), *case.words, env=env)
        with serve(str(model), *case.words, env=env) as served:
            assert says_how_far_it_is(case, served)
            case.asks(served, sound)
            assert served.may_be_read_by("https://example.com") is case.pages
            case.weighs(served, decided)
            shared = shared_memory(served.tree())
            assert bool(shared) >= case.shares
            yield served, env
    assert not [path for path in shared if path.exists()]
    with socket.create_server(("127.0.0.1", port_of(served))):
        pass


def says_how_far_it_is(case: Case, served: Served) -> bool:
    """Its log is understood, as far as there are phases to be seen in it."""
    phases = {each.phase for each in case.launcher.SIGNATURES if each.phase}
    said = re.findall(r"^aimind: (.*) \(\d+ s\)$", "\n".join(served.lines), re.MULTILINE)
    return not phases or bool(phases & set(said))


def port_of(served: Served) -> int:
    return int(served.url.rpartition(":")[2])


def shared_memory(tree: list[psutil.Process]) -> set[Path]:
    """The segments that the processes have."""
    regions = [region for found in ask_each(tree, psutil.Process.memory_maps).values() for region in found]
    shared = {region.path for region in regions if region.path.startswith("/dev/shm/")}
    return {Path(path) for path in shared if not path.endswith("(deleted)")}


def cases(end: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [each for each in CASES if end in each.ends], ids=str)


@cases("TERM")
def test_it_serves_as_planned_and_is_stopped(case: Case, model: Path, sound: Path, tmp_path: Path) -> None:
    """Whoever wants its port meanwhile is told who has it, ours or not."""
    with started(case, model, sound) as (served, env):
        port = str(port_of(served))
        case.in_shell(served.instance, lambda *words: shell(*words, env=env, cwd=sound))
        refused = fail_to_serve("--port", port, str(model), *case.words, env=env)
        assert refused.returncode == 11
        assert re.search(rf"^error: port {port} is claimed by instance \S+$", refused.stderr, re.MULTILINE)
        elsewhere = {**env, "AIMIND_STATE_DIR": str(tmp_path)}
        refused = fail_to_serve("--port", port, str(model), *case.words, env=elsewhere)
        assert refused.returncode == 11
        assert re.search(
            rf"error: port {port} is in use by .* \(pid {served.backend().pid}\)", refused.stderr
        )


@cases("KILL")
def test_it_is_killed(case: Case, model: Path, sound: Path) -> None:
    """First the backend, which is started again; then the supervisor, with which all of it ends."""
    with started(case, model, sound) as (served, _):
        before = served.backend()
        before.kill()
        served.wait_for(r"^ready again")
        assert served.backend() != before
        case.asks(served, sound)
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()


@pytest.mark.parametrize(
    ("case", "damage"),
    [pytest.param(case, damage, id=f"{case} {damage}") for case in CASES for damage in case.damages],
)
def test_a_bad_model(case: Case, damage: str, model: Path, tmp_path: Path) -> None:
    """One error, its exit code, and nothing left, though some go on and others end as if all were well."""
    spoil, exit_code = case.damages[damage]
    bad = tmp_path / "bad"
    shutil.copytree(model if model.is_dir() else model.parent, bad, ignore=shutil.ignore_patterns("*.py"))
    spoil(bad)
    with nothing_left() as variables:
        path = bad if model.is_dir() else bad / model.name
        done = fail_to_serve(str(path), *case.words, env={**case.env, **variables})
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert len(re.findall(r"^(?:aimind: )?error: ", done.stderr, re.MULTILINE)) == 1
