"""All commands: the module that has each, its panel in `aimind --help`, and its one-line summary.

A module is imported when one of its commands is called, so that `aimind --help` imports none of them.
`summary` is the first sentence of the command's own help; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EVERYDAY = "Everyday commands"
INSTANCES = "Instances"
MODELS = "Models"
SETUP = "Setup"


@dataclass(frozen=True, slots=True)
class Entry:
    """One command.

    Attributes:
        module: the module of `aimind.cli` whose `app` has the command.
        panel: where `aimind --help` shows it.
        summary: what it does, in one line.
    """

    module: str
    panel: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "serve": Entry("serve", EVERYDAY, "Serve a model until it is stopped."),
    "run": Entry("run", EVERYDAY, "Chat with a model, or get one answer, in this terminal."),
    "chat": Entry("run", EVERYDAY, "Chat with a running instance, or with any server."),
    "ps": Entry("instances", EVERYDAY, "List the running instances."),
    "stop": Entry("instances", EVERYDAY, "Stop instances."),
    "plan": Entry("plan", EVERYDAY, "Show how a model would be served, and why."),
    "status": Entry("instances", INSTANCES, "Show everything about one instance."),
    "logs": Entry("instances", INSTANCES, "Print the log of an instance."),
    "bench": Entry("bench", INSTANCES, "Measure how fast a server answers."),
    "start": Entry("instances", INSTANCES, "Start an instance that has ended."),
    "restart": Entry("instances", INSTANCES, "Restart the backend of an instance."),
    "remove": Entry("instances", INSTANCES, "Remove ended instances, or models from the caches."),
    "wait": Entry("instances", INSTANCES, "Wait until an instance is ready or stopped."),
    "unit": Entry("unit", INSTANCES, "Print or install a systemd unit that serves a model."),
    "search": Entry("models", MODELS, "Search Hugging Face or ModelScope for models."),
    "show": Entry("models", MODELS, "Show what a model is, and which of its quantizations fit."),
    "files": Entry("models", MODELS, "Show the quantizations of a model, and which of them fit."),
    "pull": Entry("models", MODELS, "Download the files that serving a model needs."),
    "models": Entry("models", MODELS, "Show the models in the caches of this machine."),
    "lock": Entry("lock", MODELS, "Record how a model is served, for `aimind serve --frozen`."),
    "devices": Entry("machine", SETUP, "Show the accelerators and the memory of this machine."),
    "backends": Entry("backends", SETUP, "Show, install, update and remove backends."),
    "config": Entry("config", SETUP, "Show the configuration, and where each value comes from."),
    "completion": Entry("completion", SETUP, "Print the completion script for a shell."),
    "help": Entry("help", SETUP, "Show the help of a command."),
    "version": Entry("help", SETUP, "Show the version of aimind."),
}
