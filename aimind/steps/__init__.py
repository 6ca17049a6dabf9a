"""The steps that commands share: each is one arrow of the way from a text to a running backend."""

from aimind.steps.deciding import (
    answer,
    ask,
    called,
    decided,
    hinted,
    offer,
    only,
    point_to_gguf,
    survey,
    without_reading,
)
from aimind.steps.equipping import allowed, equipped, machines, source, this_machine
from aimind.steps.starting import (
    calibration,
    check_arguments,
    check_damage,
    check_installed,
    command,
    compiled_mark,
    exact_sizes,
    install,
    note_unchecked,
)

__all__ = [
    "allowed",
    "answer",
    "ask",
    "calibration",
    "called",
    "check_arguments",
    "check_damage",
    "check_installed",
    "command",
    "compiled_mark",
    "decided",
    "equipped",
    "exact_sizes",
    "hinted",
    "install",
    "machines",
    "note_unchecked",
    "offer",
    "only",
    "point_to_gguf",
    "source",
    "survey",
    "this_machine",
    "without_reading",
]
