"""`aimind serve --frozen`: the model, the backend and the flags of a lock, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aimind import show, steps
from aimind.cli.asking import ask
from aimind.cli.configured import source
from aimind.cli.options import RequestOptions
from aimind.errors import UsageError
from aimind.options import Wanted, is_secret
from aimind.types import API_KEY_VARIABLE, File, Model, Plan, Reader, Request

if TYPE_CHECKING:
    from aimind.alternatives import Offer
    from aimind.lock import Lock, LockedFile

LONGEST_BYTES = 16 << 20
_CHUNK_BYTES = 4 << 20
# Who serves a lock may say these: they are no part of it.
_BESIDES = frozenset({"api_key_file", "hf_token_file", "no_config", "offline"})
_LOCKED = {field.name for field in dataclasses.fields(RequestOptions)} | {"context"}


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """A lock that is to be served: what it asks for, and of which files."""

    lock: Lock
    asked: Wanted
    offer: Offer

    def check(self, plan: Plan) -> None:
        """Find out that the plan is the one that is locked.

        Raises:
            LockError: it is not.
        """
        from aimind.lock import check

        found = locked(plan, self.asked.request, files=plan.model.files)
        check(self.lock, dataclasses.replace(found, model=self.lock.model))


def read(ctx: typer.Context, path: Path, options: RequestOptions) -> Frozen:
    """The lock in the file, of whose files those that are here are what is locked.

    Raises:
        UsageError: something is said besides, or the file is no lock.
        LockError: a file is another one.
    """
    from aimind import lock

    besides = sorted(name for name in _LOCKED - _BESIDES if source(ctx, name) == "COMMANDLINE")
    if besides or ctx.obj:
        what = f"--{besides[0].replace('_', '-')}" if besides else "the arguments after --"
        raise UsageError(
            f"--frozen cannot be combined with {what}: the lock decides it", hint=f"leave {what} out"
        )
    try:
        with path.open("rb") as file:
            found = lock.read(file.read(LONGEST_BYTES))
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be read: {problem.strerror}", hint="check its permissions"
        ) from problem
    secrets = {name: os.environ[name] for name in found.env_names if name in os.environ}
    if missing := set(found.env_names) - set(secrets):
        raise UsageError(
            f"the lock passes {min(missing)} to the backend, and it is not set",
            hint=f"export {min(missing)}=VALUE",
        )
    base = ask(found.model, options)
    if found.has_key != (base.request.api_key is not None):
        wish = (
            f"export {API_KEY_VARIABLE}, or use --api-key-file"
            if found.has_key
            else f"unset {API_KEY_VARIABLE}"
        )
        raise UsageError(
            f"the lock was made for a server with{'' if found.has_key else 'out'} an API key", hint=wish
        )
    asked = dataclasses.replace(base, request=found.request(base.request.api_key, secrets))
    return Frozen(found, asked, steps.only(_model(found), asked))


def locked(plan: Plan, request: Request, *, files: tuple[File, ...]) -> Lock:
    """The plan as a lock."""
    from aimind import hub
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.defaults import resolve
    from aimind.lock import Lock, LockedFile, flags, settings
    from aimind.reference import unparse
    from aimind.select import find_launcher

    command = steps.command(plan)
    launcher = find_launcher(plan.backend.name, LAUNCHERS)
    places = {str(hub.location(plan.model)): "model", str(Path(__file__).parents[1]): "aimind"}
    # The folder of the run has the port in its name, and perhaps there is none yet.
    written = [*(file.path for file in command.files), *(each.path for each in command.overlays)]
    places |= {str(Path(path).parent): "run" for path in written}
    env = plan.settings.env
    reference = plan.model.reference
    if plan.model.commit is not None:  # ModelScope does not always tell it
        reference = dataclasses.replace(reference, revision=None)
    return Lock(
        model=unparse(reference, anywhere=True) if plan.model.root is None else _local(plan.model),
        commit=plan.model.commit,
        backend=plan.backend.name,
        backend_version=plan.backend.version,
        has_key=plan.settings.api_key is not None,
        env={name: value for name, value in env.items() if not is_secret(name)},
        env_names=tuple(filter(is_secret, env)),
        settings=settings(plan.settings),
        files=tuple(
            LockedFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256 or "") for file in files
        ),
        flags=flags(launcher, plan, command.argv, asked=resolve(launcher, request).request, places=places),
    )


def _local(model: Model) -> str:
    """A model on this machine by its whole path; the demo is everywhere."""
    from aimind.reference import unparse

    if model.reference.source != "local":
        return unparse(model.reference, anywhere=True)
    path = str(Path(model.reference.name).expanduser().absolute())
    return unparse(dataclasses.replace(model.reference, name=path, file=None))


# ── The files ──────────────────────────────────────────────────────────────────────────────────────────────


def _model(lock: Lock) -> Model:
    """The locked files; those that are here were read, those of a hub that are not will be fetched."""
    from aimind import hub, reference
    from aimind.hub.base import checked_path
    from aimind.lock import LockError

    parsed = reference.parse(lock.model, revision=lock.commit)
    if lock.commit is None and parsed.source == "huggingface":
        raise UsageError("the lock is damaged: it names no commit", hint="write it again with `aimind lock`")
    local = hub.resolve(parsed) if parsed.source in ("local", "demo") else None
    root = local.root if local is not None else None
    formats = {file.path: file.format for file in local.files} if local is not None else {}
    files = tuple(
        File(
            checked_path(file.path, of="the lock"),
            file.size_bytes,
            file.sha256,
            format=formats.get(file.path, ""),
        )
        for file in lock.files
    )
    model = Model(reference=parsed, files=files, commit=lock.commit, root=root)
    where = hub.location(model)
    # What is here under another name is shown under this one before the start.
    shown = [where / file.path if (where / file.path).is_file() else hub.here(model, file) for file in files]
    here = [(path, file) for path, file in zip(shown, lock.files, strict=True) if path and path.is_file()]
    if len(here) < len(files) and root is not None:
        missing = next(path for path in shown if path and not path.is_file())
        raise LockError(
            f"the locked file {missing} is missing", hint="restore it, or run `aimind lock` again"
        )
    if here:
        show.note(f"checking {len(here)} of {len(files)} locked files")
    for path, file in here:
        _check(path, file)
    return model


def _check(path: Path, file: LockedFile) -> None:
    from aimind.hub.local import FileReader
    from aimind.lock import LockError

    size = path.stat().st_size
    if size != file.size_bytes:
        what = f"it has {size} bytes instead of {file.size_bytes}"
    elif (found := sha256(FileReader(path))) != file.sha256:
        what = f"its sha256 is {found} instead of {file.sha256}"
    else:
        return
    raise LockError(f"{path} is not the locked file: {what}", hint="restore it, or run `aimind lock` again")


def sha256(content: Reader) -> str:
    """The hash of a whole file."""
    digest = hashlib.sha256()
    for offset in range(0, content.size_bytes, _CHUNK_BYTES):
        digest.update(content.read(offset, _CHUNK_BYTES))
    return digest.hexdigest()
