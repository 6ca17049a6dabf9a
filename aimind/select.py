"""Which backend serves a model on a machine, and why the others do not: the first that does not refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from aimind.errors import UnsupportedError, UsageError
from aimind.launchers.base import KnowsArchitectures, Launcher, Narrows, nearest, takes_key
from aimind.phrases import here
from aimind.types import Backend, Host, Metadata, Package, Program, Reason, Refusal, Request, bare


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen backend, the reason for it, and the refusals of the others."""

    launcher: Launcher
    backend: Backend
    refused: tuple[Refusal, ...]
    reason: Reason


def choose(metadata: Metadata, host: Host, request: Request, launchers: Sequence[Launcher]) -> Choice:
    """The first launcher, in order of preference, that does not refuse the model on this machine.

    Raises:
        UsageError: the request names a backend that does not exist.
        UnsupportedError: every backend refuses, or the one that was asked for.
    """
    asked = request.backend
    candidates = (find_launcher(asked, launchers),) if asked is not None else _preferred(launchers, host)
    refused: list[Refusal] = []
    for launcher in candidates:
        backend = _backend(launcher, metadata, host, request)
        against = model_refusal(launcher, metadata, host) or version_refusal(
            launcher, metadata, host, backend
        )
        forced = against is not None and asked is not None and request.force
        sentence = (
            (None if forced else against)
            or _unprotected(launcher, request)
            or (_unusable(backend, host, request) if backend else None)
        )
        if sentence is None and backend is not None:
            if forced:
                why = f"--force overrides this refusal of {launcher.NAME}: {against}"
            elif asked:
                why = f"{launcher.NAME} was requested"
            else:
                kind = f"{metadata.format} {metadata.category} models"
                why = f"{launcher.NAME} is the first backend that serves {kind} {here(host)}"
            if backend.assumed:
                why += f"; {_assumption(launcher, host, backend)}"
            return Choice(launcher, backend, tuple(refused), Reason("backend", why))
        refused.append(Refusal(launcher.NAME, sentence or _missing(launcher, host)))
    if asked is not None:
        raise _refusal(candidates[0], refused[0].sentence, metadata, host, request, launchers)
    if _is_unknown(metadata, host, request, candidates):
        raise _unknown(metadata, host, request, candidates)
    able = next((each for each in candidates if _only_missing(each, metadata, host, request)), None)
    if able is not None:
        others = _together([each for each in refused if each.backend != able.NAME])
        kind = f"this {metadata.format} {metadata.category} model"
        raise UnsupportedError(
            f"{able.NAME} can serve {kind}, but is not installed {here(host)}: see {_from(able, host)}",
            hint=f"install {able.NAME}; the other backends refuse the model: {others}",
        )
    raise UnsupportedError(
        f"no backend can serve this {metadata.format} {metadata.category} model {here(host)}",
        hint=f"the backends refuse it: {_together(refused)}",
    )


def _is_unknown(metadata: Metadata, host: Host, request: Request, launchers: Sequence[Launcher]) -> bool:
    """Whether all backends that would serve the model are of versions that do not know its architecture."""
    able = _able(metadata, host, request, launchers)
    return bool(able) and not any(_knows(launcher, metadata, backend) for launcher, backend in able)


def _able(
    metadata: Metadata, host: Host, request: Request, launchers: Sequence[Launcher]
) -> list[tuple[Launcher, Backend]]:
    """The backends that would serve the model, whatever its architecture."""
    found = []
    for launcher in launchers:
        backend = _backend(launcher, metadata, host, request)
        if backend is not None and model_refusal(launcher, metadata, host) is None:
            found.append((launcher, backend))
    return found


def _unknown(
    metadata: Metadata, host: Host, request: Request, launchers: Sequence[Launcher]
) -> UnsupportedError:
    """The error for an architecture that no backend knows."""
    able = _able(metadata, host, request, launchers)
    versions = ", ".join(f"{launcher.NAME} {backend.version}" for launcher, backend in able)
    first = able[0][0].NAME
    return UnsupportedError(
        f"No backend knows the architecture {metadata.architecture} ({versions}).",
        hint=f"try a newer version with --backend {first} --backend-version VERSION, "
        f"or this one with --backend {first} --force",
    )


def _preferred(launchers: Sequence[Launcher], host: Host) -> Sequence[Launcher]:
    """The launchers in the order in which they are tried on this machine.

    On another machine (`--hardware`) those come first that can use its devices, and of these the ones that
    aimind can install there itself.
    """
    if not host.elsewhere:
        return launchers
    assumed = {backend.name for backend in host.backends if backend.assumed}
    # The memory of Apple's devices is the machine's own, which every backend can use.
    vendors = {device.vendor for device in host.devices} - {"apple"}

    def rank(launcher: Launcher) -> tuple[bool, bool]:
        leaves_devices_idle = bool(vendors) and vendors.isdisjoint(launcher.MEMORY.vendors)
        return leaves_devices_idle, launcher.NAME in assumed

    return sorted(launchers, key=rank)


def _assumption(launcher: Launcher, host: Host, backend: Backend) -> str:
    """Clause for a plan for another machine (`--hardware`): the program is assumed to be installed there."""
    source = launcher.source(host)
    title = source.title if isinstance(source, Program) else launcher.NAME
    version = "" if backend.version == "unknown" else f" {backend.version}"
    return f"the plan assumes that {title}{version} is installed there"


def find_launcher(name: str, launchers: Sequence[Launcher]) -> Launcher:
    """Find a launcher by its name.

    Raises:
        UsageError: no launcher has this name.
    """
    for launcher in launchers:
        if launcher.NAME == name:
            return launcher
    names = [launcher.NAME for launcher in launchers]
    near = nearest(name, names)
    raise UsageError(
        f"there is no backend {name!r}",
        hint=f"did you mean {near}?" if near else f"choose one of {', '.join(names)}",
    )


def version_refusal(
    launcher: Launcher, metadata: Metadata, host: Host, backend: Backend | None
) -> str | None:
    """Why this version of the backend cannot load the model, as a sentence."""
    if backend is None:
        return None
    if not _knows(launcher, metadata, backend):
        return f"{launcher.NAME} {backend.version} does not know the architecture {metadata.architecture}"
    if not isinstance(launcher, Narrows):
        return None
    return _first(metadata, lambda each: launcher.lacks(each, host, backend))


def model_refusal(launcher: Launcher, metadata: Metadata, host: Host) -> str | None:
    """Why the backend does not serve the model on this machine, as a sentence."""
    return _first(metadata, lambda each: launcher.refuse(each, host))


def _first(metadata: Metadata, judge: Callable[[Metadata], str | None]) -> str | None:
    """Return the first refusal. Each part of a model in mixed precision is judged; the sentence names it."""
    for part, each in zip_longest(metadata.mixture, metadata.by_quantization()):
        sentence = judge(each)
        if sentence is not None:
            return sentence if part is None else f"{sentence} (in its {part.part})"
    return None


def _knows(launcher: Launcher, metadata: Metadata, backend: Backend) -> bool:
    """Whether this version of the backend loads the model's architecture, or may."""
    return not isinstance(launcher, KnowsArchitectures) or launcher.knows(metadata, backend)


def _default_knows(launcher: Launcher, metadata: Metadata, host: Host) -> bool:
    """Whether the version of a backend that aimind installs there loads the model's architecture, or may."""
    source = launcher.source(host)
    version = source.version if isinstance(source, Package) else source.assumed_version
    return _knows(launcher, metadata, Backend(name=launcher.NAME, version=version, executable=""))


def _backend(launcher: Launcher, metadata: Metadata, host: Host, request: Request) -> Backend | None:
    return next(
        (
            backend
            for backend in host.backends
            if backend.name == launcher.NAME
            and request.version_of(launcher.NAME) in (None, bare(backend.version))
            and backend.only in ("", metadata.architecture)
        ),
        None,
    )


def _only_missing(launcher: Launcher, metadata: Metadata, host: Host, request: Request) -> bool:
    """Whether only installation by the user is missing for this backend to serve the model."""
    return (
        isinstance(launcher.source(host), Program)
        and _backend(launcher, metadata, host, request) is None
        and request.backend_version is None
        and model_refusal(launcher, metadata, host) is None
        and _default_knows(launcher, metadata, host)
        and _unprotected(launcher, request) is None
    )


def _unusable(backend: Backend, host: Host, request: Request) -> str | None:
    """Why an installed backend cannot be used for this request."""
    wanted = host.devices if request.devices is None else request.devices
    if backend.problem is None and wanted and not backend.sees_devices:
        return f"{backend.executable} is a build for the CPU and uses no GPU (--device none selects it)"
    if backend.problem is None and wanted and backend.missing:
        return (
            f"{' and '.join(backend.missing)} cannot be loaded: run `aimind backends remove {backend.name}` "
            "and serve again to install them, or use --device none"
        )
    return backend.problem


def _unprotected(launcher: Launcher, request: Request) -> str | None:
    """Why the backend cannot honor --api-key-file."""
    if request.api_key is None or takes_key(launcher):
        return None
    return "it does not support API keys: omit --api-key-file and use a proxy that checks keys"


def _missing(launcher: Launcher, host: Host) -> str:
    source = launcher.source(host)
    versions = [backend.version for backend in host.backends if backend.name == launcher.NAME]
    if versions:
        return f"version {', '.join(versions)} is installed {here(host)}, not the requested one"
    if isinstance(source, Program):
        where = "on PATH" if source.home is None else f"in {source.home.folder}"
        return f"{source.names[0]} was not found {where}: {source.remedy}"
    return f"it cannot be installed {here(host)}"


def _from(launcher: Launcher, host: Host) -> str:
    source = launcher.source(host)
    return (source.page or source.remedy) if isinstance(source, Program) else source.distribution


def _refusal(
    launcher: Launcher,
    sentence: str,
    metadata: Metadata,
    host: Host,
    request: Request,
    launchers: Sequence[Launcher],
) -> UnsupportedError:
    """The error where the requested backend refuses the model; the hint names another one that serves it."""
    backend = _backend(launcher, metadata, host, request)
    against = model_refusal(launcher, metadata, host) or version_refusal(launcher, metadata, host, backend)
    forcible = against is not None and not request.force
    ways = ["use --force to try it all the same" if forcible else "see `aimind backends`"]
    is_of_its_kind = launcher.refuse(metadata, host) is None
    if backend is not None and is_of_its_kind and not _knows(launcher, metadata, backend):
        ways.insert(0, "try a newer version with --backend-version VERSION")
    for other in launchers:
        if (
            other is not launcher
            and isinstance(other.source(host), Package)
            and model_refusal(other, metadata, host) is None
            and _default_knows(other, metadata, host)
            and _unprotected(other, request) is None
        ):
            ways.insert(0, f"omit --backend to use {other.NAME}")
            break
    return UnsupportedError(
        f"{launcher.NAME} cannot serve this model {here(host)}: {sentence}", hint="; ".join(ways)
    )


def _together(refused: Sequence[Refusal]) -> str:
    """Group backends by their refusal; the refusals that fewest share come first, being the most specific."""
    names: dict[str, list[str]] = {}
    for each in refused:
        names.setdefault(each.sentence, []).append(each.backend)
    refusals = sorted(names.items(), key=lambda item: len(item[1]))
    return "; ".join(f"{', '.join(backends)}: {sentence}" for sentence, backends in refusals)
