"""All that a person reads: plans, tables, errors, hints. Data goes to stdout, the rest to stderr."""

from aimind.show.backends import Overview, backends, backends_document
from aimind.show.bench import bench, bench_document, bench_progress
from aimind.show.configuration import configuration, configuration_document, trusted
from aimind.show.conversation import COMMANDS as CHAT_COMMANDS
from aimind.show.conversation import AnswerView, chat_help, statistics
from aimind.show.decision import command_line, model, plan
from aimind.show.instances import (
    ending,
    instance,
    instance_document,
    instance_progress,
    instances,
    log_document,
    log_line,
)
from aimind.show.live import Step
from aimind.show.machine import devices
from aimind.show.messages import announcement, bug, curl, error, error_document, traceback
from aimind.show.models import cached, cached_document, found, found_document, pruned_document
from aimind.show.progress import Installation, Progress
from aimind.show.start import ready, screen, start
from aimind.show.tables import candidates, comparison, exact
from aimind.show.terminal import (
    be_quiet,
    data,
    is_quiet,
    note,
    path,
    set_color,
    tell,
    warn,
)

__all__ = [
    "CHAT_COMMANDS",
    "AnswerView",
    "Installation",
    "Overview",
    "Progress",
    "Step",
    "announcement",
    "backends",
    "backends_document",
    "be_quiet",
    "bench",
    "bench_document",
    "bench_progress",
    "bug",
    "cached",
    "cached_document",
    "candidates",
    "chat_help",
    "command_line",
    "comparison",
    "configuration",
    "configuration_document",
    "curl",
    "data",
    "devices",
    "ending",
    "error",
    "error_document",
    "exact",
    "found",
    "found_document",
    "instance",
    "instance_document",
    "instance_progress",
    "instances",
    "is_quiet",
    "log_document",
    "log_line",
    "model",
    "note",
    "path",
    "plan",
    "pruned_document",
    "ready",
    "screen",
    "set_color",
    "start",
    "statistics",
    "tell",
    "traceback",
    "trusted",
    "warn",
]
