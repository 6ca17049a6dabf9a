"""The files of an instance: what is read is what was written, or an error that names the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from aimind.errors import InstanceError, UsageError
from aimind.instances import names, records
from aimind.supervisor.record import State as Supervisors
from aimind.types import Claim, Instance, State

CLAIM = Claim(address="127.0.0.1", port=8000, devices={"GPU-1": 7}, ram_bytes=5)
INSTANCE = Instance(
    name="demo",
    argv=("demo", "--", "-t", "3"),
    cwd="/größer",
    created=1.5,
    model="demo",
    served_name="demo",
    backend="llama-server",
    backend_version="1",
    url="http://127.0.0.1:8000",
    has_key=True,
    stop_seconds=10.0,
    claim=CLAIM,
)
STATE = State(state="failed", since=1, pid=2, phase=None, reason="why", exit_code=7)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    records.write(tmp_path / records.INSTANCE, INSTANCE)
    records.write(tmp_path / records.STATE, STATE)
    assert records.read_instance(tmp_path) == INSTANCE
    assert records.read_state(tmp_path) == STATE
    assert sorted(path.name for path in tmp_path.iterdir()) == [records.INSTANCE, records.STATE]


def test_what_the_supervisor_writes_is_a_state(tmp_path: Path) -> None:
    theirs = Supervisors(str(tmp_path))
    theirs.change(state="loading", phase="loading weights 50 %", run=3)
    assert dataclasses.asdict(records.read_state(tmp_path)) == theirs.fields


def test_fields_of_a_newer_aimind_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / records.STATE).write_text(json.dumps({**dataclasses.asdict(STATE), "mood": "good"}))
    assert records.read_state(tmp_path) == STATE


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"state": "rea',
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        "\0\xff",
        json.dumps({**dataclasses.asdict(STATE), "pid": "2"}),
        json.dumps({**dataclasses.asdict(STATE), "pid": True}),
        json.dumps({**dataclasses.asdict(STATE), "state": "happy"}),
        json.dumps({**dataclasses.asdict(STATE), "exit_code": 1.5}),
    ],
    ids=lambda text: text[:12],
)
def test_a_damaged_state(tmp_path: Path, text: str) -> None:
    path = tmp_path / records.STATE
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InstanceError, match="is damaged") as raised:
        records.read_state(tmp_path)
    assert str(path) in raised.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"claim": None},
        {"claim": {}},
        {"claim": {**dataclasses.asdict(CLAIM), "devices": {"a": "b"}}},
        {"argv": [1]},
    ],
    ids=str,
)
def test_a_damaged_instance(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / records.INSTANCE).write_text(json.dumps({**dataclasses.asdict(INSTANCE), **change}))
    with pytest.raises(InstanceError, match=r"instance\.json is damaged"):
        records.read_instance(tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        records.read_state(tmp_path)


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [
        ("Qwen2-0.5B-Instruct", "qwen2-0.5b-instruct", "qwen2-0.5b-instruct-2"),
        ("owner/Name_1", "name_1", "name_1-2"),
        ("Über model!", "ber-model", "ber-model-2"),
        ("..", "model", "model-2"),
        ("x" * 100, "x" * 58, "x" * 58 + "-2"),
    ],
)
def test_names_made_of_a_models(model: str, first: str, second: str) -> None:
    made = names.proposals(model)
    assert [next(made), next(made)] == [first, second]
    assert names.check(first) == first


@pytest.mark.parametrize("name", ["", "-a", "a b", "A", "a/b", "a\n", "ä", "a" * 64])
def test_what_is_no_name(name: str) -> None:
    assert not names.good(name)
    with pytest.raises(UsageError):
        names.check(name)
