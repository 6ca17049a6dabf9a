"""What of a model may run code: its own Python, refused unless allowed, and pickles. Pure."""

from __future__ import annotations

import dataclasses

from aimind.errors import UnsupportedError
from aimind.launchers.base import Launcher, ReadsPickles
from aimind.types import Metadata, Model, Request

PICKLES = (".bin", ".pt", ".pth")
_SHOWN = 6


def of_code(model: Model, metadata: Metadata, request: Request) -> tuple[str, ...]:
    """What the user should know of the model's own code, as sentences.

    Raises:
        UnsupportedError: the model needs it, and it is not allowed.
    """
    what = _listed(metadata.remote_code)
    elsewhere = sorted({name.split("--")[0] for name in metadata.remote_code if "--" in name})
    if metadata.needs_remote_code and not request.trust_remote_code:
        raise UnsupportedError(
            f"the model needs Python of its own, which the backend would run: {what}",
            hint=f"read it {_where(model, elsewhere)}; --trust-remote-code allows it",
        )
    if not metadata.remote_code or not request.trust_remote_code:
        return ()
    known = "" if metadata.needs_remote_code else ", though backends know the model without: leave that out"
    said = [f"--trust-remote-code: the backend runs Python of the model's, {what}{known}"]
    said += [
        f"the code in {name} is pinned to no commit, and the backend is kept offline: "
        f"it has to be in the cache (hf download {name} --include '*.py')"
        for name in elsewhere[:_SHOWN]
    ]
    return tuple(said)


def without_code(model: Model) -> Model:
    """The model without its Python files."""
    return dataclasses.replace(model, files=tuple(f for f in model.files if not f.path.endswith(".py")))


def of_pickles(model: Model, metadata: Metadata, launcher: Launcher) -> tuple[str, ...]:
    """That the weights are pickles: programs for Python's unpickler, which may call what it likes."""
    if metadata.format != "pickle":
        return ()
    pickles = [file.path for file in model.files if file.path.endswith(PICKLES)]
    more = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
    runs_none = isinstance(launcher, ReadsPickles) and launcher.WEIGHTS_ONLY
    how = "reads them so that none runs (weights_only)" if runs_none else "may run it"
    return (
        f"the weights are pickles ({', '.join(pickles[:1])}{more}), for want of safetensors: "
        f"they can hold code; {launcher.NAME} {how}",
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
