"""Turns a plan into what is started: its command, and the installed backend."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aimind import show
from aimind.errors import InstallError, UnsupportedError
from aimind.options import is_secret
from aimind.steps.equipping import source, with_abilities
from aimind.types import PRIVATE_VARIABLES, Command, Host, Package, Plan, TinyRequest

if TYPE_CHECKING:
    from aimind.exact import Exact
    from aimind.supervise import Calibration


def command(plan: Plan, *, ready_probe: str = "request", scratch: str | None = None) -> Command:
    """How the plan is started, its files where the hub keeps them.

    Args:
        plan: what is started.
        ready_probe: `request` or `health`.
        scratch: the folder for files that the command brings along: an instance has one of its own.
    """
    from aimind import environments, hub
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.broken import broken_environment
    from aimind.select import find_launcher

    scratch = scratch or environments.scratch(plan.backend.name, plan.settings.port or 0)
    plan = dataclasses.replace(plan, scratch=scratch, strays=hub.strays(plan.model))
    made = find_launcher(plan.backend.name, LAUNCHERS).command(plan, str(hub.location(plan.model)))
    ready = made.ready
    if ready_probe == "request" and plan.metadata.category != "image":  # a picture takes minutes
        ready = dataclasses.replace(ready, request=_tiny_request(plan, made))
    signatures = made.signatures
    if (folder := environments.folder(plan.backend)) is not None:
        signatures += broken_environment(plan.backend, str(folder))
    shown = {name: value for name, value in made.env.items() if not is_secret(name)}
    hidden = {name: value for name, value in made.env.items() if name not in shown}
    return dataclasses.replace(
        made,
        env=shown,
        secret_env={**made.secret_env, **hidden},
        unset_env=(*made.unset_env, *PRIVATE_VARIABLES),
        ready=ready,
        signatures=signatures,
    )


def calibration(plan: Plan) -> Calibration | None:
    """Where and as what it is remembered what the plan's run holds beside its buffers.

    `None` where that says nothing of other runs: a projector and what the user's arguments add are in no
    buffer of the log.
    """
    from aimind import environments
    from aimind.supervise import Calibration

    if not plan.measured_as or plan.uncounted or plan.settings.projector not in (None, "none"):
        return None
    return Calibration(
        path=str(environments.calibration_file()),
        backend=plan.backend.name,
        version=plan.backend.version,
        kind=plan.measured_as,
    )


def compiled_mark(plan: Plan) -> str | None:
    """The file that is made when the plan's run is ready: its compiled code is there. `None` without any."""
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import Compiles
    from aimind.select import find_launcher

    launcher = find_launcher(plan.backend.name, LAUNCHERS)
    cache = plan.backend.compile_cache
    if cache is None or not isinstance(launcher, Compiles):
        return None
    key = launcher.compile_key(plan)
    return None if key is None else cache.marks + key


def _tiny_request(plan: Plan, made: Command) -> TinyRequest:
    """One token, one embedding, one ranking or a moment of sound: what shows that the model really works."""
    from aimind.launchers.hello import hello

    request = hello(plan, tokens=1)
    key = next(iter(made.secret_env), None)
    return TinyRequest(
        url=f"{made.url}/v1/{request.path}",
        body=request.body,
        content_type=request.content_type,
        bearer_env=key,
    )


def exact_sizes(plan: Plan, started: Command) -> tuple[Exact, ...]:
    """What the plan's llama.cpp itself would reserve on its devices and in RAM.

    Raises:
        ExactSizesError: it is not installed, cannot tell, or cannot open the model.
    """
    from aimind import hub
    from aimind.errors import ExactSizesError
    from aimind.exact import exact

    if not plan.backend.installed:
        raise ExactSizesError(
            f"{plan.backend.name} is not installed, so it cannot report its sizes",
            hint=f"aimind backends install {plan.backend.name}",
        )
    where = hub.location(plan.model)
    files = [where / file.path for file in plan.model.files if not file.is_projector]
    if all(file.exists() for file in files):
        sizes = exact(started)
    elif len(files) == 1:
        sizes = _sizes_by_header(plan, started, str(files[0]))
    else:
        raise ExactSizesError(
            "llama.cpp can measure a model of several files only once they are downloaded",
            hint="leave --exact out",
        )
    if len(sizes) != len(plan.shards) + 1:
        raise ExactSizesError(
            f"llama.cpp reports {len(sizes) - 1} devices, and the plan has {len(plan.shards)}",
            hint="is it a build for these devices? see `aimind backends`",
        )
    return sizes


def _sizes_by_header(plan: Plan, started: Command, path: str) -> tuple[Exact, ...]:
    """The same of a file that is not here: its header is enough."""
    import tempfile
    from pathlib import Path

    from aimind import hub
    from aimind.exact import exact, sparse

    file = next(file for file in plan.model.files if not file.is_projector)
    layers = [tensor for layer in plan.metadata.layers for tensor in layer.tensors]
    tensors = [*layers, *plan.metadata.others, *plan.metadata.draft]
    header_bytes = file.size_bytes - sum(tensor.size_bytes for tensor in tensors)
    with tempfile.TemporaryDirectory(prefix="aimind-") as folder:
        stand_in = Path(folder) / Path(file.path).name
        sparse(stand_in, hub.open_file(plan.model, file), header_bytes=header_bytes)
        argv = tuple(str(stand_in) if word == path else word for word in started.argv)
        return exact(dataclasses.replace(started, argv=argv))


def check_installed(plan: Plan) -> None:
    """Find out that the plan's backend is here.

    Raises:
        InstallError: it is not.
    """
    backend = plan.backend
    if not backend.installed:
        raise InstallError(
            f"{backend.name} {backend.version} is not installed",
            hint=f"`aimind backends install {backend.name}=={backend.version}`, or leave --no-install out",
        )


def check_damage(plan: Plan, host: Host) -> None:
    """Find out before the start whether the environment of an installed backend is damaged.

    Raises:
        InstallError: it is.
    """
    from aimind import environments

    backend = plan.backend
    came_from = source(backend.name, host)
    if not backend.installed or not isinstance(came_from, Package):
        return
    found = environments.find_damage(backend, came_from)
    if found is None:
        return
    message = f"{backend.name} {backend.version} is damaged: {found.sentence}"
    hint = f"`aimind backends install {backend.name}=={backend.version}` reinstalls it"
    if found.fatal:
        raise InstallError(message, hint=hint)
    show.warn(f"{message}; {hint}")


def install(plan: Plan, host: Host) -> None:
    """Bring the plan's backend, if it is not here.

    Raises:
        InstallError: it cannot be brought.
        UnsupportedError: it is here now, and does not know the model.
    """
    from aimind.environments.install import ensure

    backend = plan.backend
    if backend.installed:
        return
    came_from = source(backend.name, host)
    if isinstance(came_from, Package):
        build = next(build for build in came_from.builds if build.only == backend.only)
        with show.Installation(f"{backend.name} {backend.version}") as progress:
            ensure(backend.name, build, version=backend.version, progress=progress)
    _check_model(plan, host)


def _check_model(plan: Plan, host: Host) -> None:
    """Check whether the installed backend supports the model."""
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import KnowsArchitectures, Narrows
    from aimind.select import find_launcher, version_refusal

    launcher = find_launcher(plan.backend.name, LAUNCHERS)
    if isinstance(launcher, KnowsArchitectures | Narrows) and not plan.settings.force:
        backend = with_abilities(launcher, host, plan.backend)
        if (why := version_refusal(launcher, plan.metadata, host, backend)) is not None:
            raise UnsupportedError(
                f"{backend.name} is installed, but cannot serve this model: {why}",
                hint="run the same command again to use the next suitable backend",
            )


def check_arguments(plan: Plan, host: Host) -> None:
    """Check the user's backend arguments once the backend is here, where planning did not know its flags.

    Raises:
        UsageError: it does not take one of them.
    """
    from aimind.environments import flags
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import TellsFlags
    from aimind.launchers.flags import check_flags
    from aimind.select import find_launcher

    backend = plan.backend
    launcher = find_launcher(backend.name, LAUNCHERS)
    if not isinstance(launcher, TellsFlags) or not _unchecked(plan):
        return
    with show.Step(f"asking {backend.name} {backend.version} which arguments it accepts"):
        told = flags.ask(backend, source(backend.name, host), launcher.HELP)
    if told is None:
        show.warn(f"{backend.name} does not list its arguments, so yours are not checked")
    for warning in check_flags(launcher, plan.settings, dataclasses.replace(backend, flags=told)):
        show.warn(warning)


def _unchecked(plan: Plan) -> bool:
    """Whether the user has arguments that the backend was not asked about."""
    return bool(plan.settings.extra) and plan.backend.flags is None


def note_unchecked(plan: Plan) -> None:
    """Print a note that arguments were not checked, for commands that start nothing."""
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import TellsFlags
    from aimind.select import find_launcher

    if isinstance(find_launcher(plan.backend.name, LAUNCHERS), TellsFlags) and _unchecked(plan):
        show.note(
            f"note: {plan.backend.name} {plan.backend.version} has not listed its arguments yet: "
            "`aimind serve` checks yours before it starts"
        )
