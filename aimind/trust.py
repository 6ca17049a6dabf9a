"""Check for code in a model: its own Python, which needs --trust-remote-code, and pickles. Pure."""

from __future__ import annotations

import dataclasses

from aimind.errors import UnsupportedError
from aimind.launchers.base import Launcher, ReadsPickles
from aimind.types import Metadata, Model, Request

PICKLES = (".bin", ".pt", ".pth")
_SHOWN = 6


def check_code(model: Model, metadata: Metadata, request: Request) -> tuple[str, ...]:
    """Return warnings about the model's own code, as sentences.

    Raises:
        UnsupportedError: the model needs its own code, and --trust-remote-code is not set.
    """
    what = _listed(metadata.remote_code)
    elsewhere = sorted({name.split("--")[0] for name in metadata.remote_code if "--" in name})
    if metadata.needs_remote_code and not request.trust_remote_code:
        raise UnsupportedError(
            f"the model needs its own Python code, which the backend would run: {what}",
            hint=f"review the code {_where(model, elsewhere)}, then use --trust-remote-code to allow it",
        )
    if not metadata.remote_code or not request.trust_remote_code:
        return ()
    warnings = [f"--trust-remote-code lets the backend run the model's own Python code: {what}"]
    if not metadata.needs_remote_code:
        warnings.append("the backends support this model without --trust-remote-code: omit it")
    warnings += [
        f"the code in {name} is not pinned to a commit, and the backend runs offline: "
        f"download it first with `hf download {name} --include '*.py'`"
        for name in elsewhere[:_SHOWN]
    ]
    return tuple(warnings)


def without_code(model: Model) -> Model:
    """The model without its Python files."""
    return dataclasses.replace(model, files=tuple(f for f in model.files if not f.path.endswith(".py")))


def check_pickles(model: Model, metadata: Metadata, launcher: Launcher) -> tuple[str, ...]:
    """Warn where the weights are pickles, which can run arbitrary code when they are loaded."""
    if metadata.format != "pickle":
        return ()
    pickles = [file.path for file in model.files if file.path.endswith(PICKLES)]
    more = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
    runs_none = isinstance(launcher, ReadsPickles) and launcher.WEIGHTS_ONLY
    how = "loads them with weights_only, so that none runs" if runs_none else "may run it"
    return (
        f"the model has no safetensors, and its weights are pickles ({', '.join(pickles[:1])}{more}), "
        f"which can contain code; {launcher.NAME} {how}",
    )


def _listed(names: tuple[str, ...]) -> str:
    """`modeling_x.py (X) of owner/other` for each."""
    shown = [_file(name) for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _file(name: str) -> str:
    repository, _, reference = name.rpartition("--")
    module, _, kind = reference.rpartition(".")
    file = f"{module}.py ({kind})" if module and kind != "yaml" else reference
    return f"{file} of {repository}" if repository else file


def _where(model: Model, elsewhere: list[str]) -> str:
    own = model.root or model.reference.name + (f" at commit {model.commit[:12]}" if model.commit else "")
    return " and ".join([f"in {own}", *(f"in {name}" for name in elsewhere[:_SHOWN])])
