"""The steps that commands share: each is one arrow of the way from a text to a running backend."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from aimind import show
from aimind.errors import AimindError, BadReferenceError, DoesNotFitError, InstallError, UnsupportedError
from aimind.options import is_secret
from aimind.types import (
    PRIVATE_VARIABLES,
    Backend,
    Command,
    Host,
    Metadata,
    Model,
    Package,
    Plan,
    Program,
    Reason,
    Registry,
    Request,
    TinyRequest,
)

if TYPE_CHECKING:
    from aimind.alternatives import Offer, Option, Question
    from aimind.exact import Exact
    from aimind.instances import Sight
    from aimind.launchers.base import Launcher
    from aimind.options import Wanted


Result = TypeVar("Result")


def offer(asked: Wanted) -> Offer:
    """From the text to the files that could be served, and how to read them."""
    from aimind import files, hub, reference
    from aimind.alternatives import Offer

    text = asked.text
    _prepare_hub(asked)
    try:
        parsed = reference.parse(text, revision=asked.revision, quantization=asked.quantization)
    except BadReferenceError as problem:
        if text and os.path.exists(text):  # noqa: PTH110 - any text, also what no path can be made of
            raise BadReferenceError(problem.message, hint=f"a path begins with ./: ./{text}") from problem
        raise
    twin = hub.local_twin(parsed)
    if twin is not None:
        show.note(
            f"note: {text} is taken from {hub.hub_of(parsed.source).title}; the folder here is ./{twin}"
        )
    model = hub.resolve(parsed)
    candidates = files.candidates(model, projector=asked.projector)
    siblings = files.siblings(model, candidates[0], projector=asked.projector)
    return Offer(candidates=candidates, siblings=siblings, read=functools.cache(_read))


def only(model: Model, asked: Wanted) -> Offer:
    """These files, and no others."""
    from aimind.alternatives import Offer

    _prepare_hub(asked)
    return Offer(candidates=(model,), siblings=(), read=functools.cache(_read))


def _prepare_hub(asked: Wanted) -> None:
    from aimind import hub

    if asked.offline:
        hub.go_offline()
    if asked.token_file is not None:
        hub.use_token(asked.token_file)


def _read(model: Model) -> Metadata:
    """Its headers, wherever it is."""
    from aimind import hub, metadata

    return metadata.read(model, lambda file: hub.open_file(model, file))


class _UnreadError(Exception):
    """Of this candidate the headers are needed, and were not read yet."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.model = model


def without_reading(offered: Offer, attempt: Callable[[Offer], Result]) -> Result:
    """What the attempt comes to, with an offer of which nothing is read while it runs.

    It ends where it asks for headers that were not read yet; then they are read, and it is made again. So
    nobody waits for a hub while the attempt keeps others from something.
    """
    known: dict[Model, Metadata] = {}

    def read(model: Model) -> Metadata:
        if model not in known:
            raise _UnreadError(model)
        return known[model]

    wanted = offered.candidates[0]  # which is always asked for
    while True:
        known[wanted] = offered.read(wanted)
        try:
            return attempt(dataclasses.replace(offered, read=read))
        except _UnreadError as missing:
            wanted = missing.model


def machines(specs: tuple[str, ...], asked: Wanted) -> dict[str, Host]:
    """The machines that are described, or this one, as the request wants them seen."""
    if specs:
        from aimind.devices import hardware

        return {spec: equipped(hardware.parse(spec), asked.request) for spec in specs}
    from aimind import instances

    return {"this one": this_machine(asked.request, instances.living())}


def this_machine(request: Request, living: tuple[Sight, ...]) -> Host:
    """This machine as the request wants it seen, without what is promised to those instances."""
    from aimind import devices, instances

    return equipped(instances.without_promises(allowed(devices.probe(), request), living), request)


def equipped(host: Host, request: Request) -> Host:
    """The machine with the devices that may be used, and the backends that are there or can be brought."""
    return with_backends(allowed(host, request), request)


def allowed(host: Host, request: Request) -> Host:
    """The machine with the devices that may be used: without any, other builds of the backends are right."""
    return dataclasses.replace(host, devices=()) if request.devices == () else host


def ask(offered: Offer, asked: Wanted, host: Host, *, context: int | None = None) -> Question:
    """What shall be served on which machine (`equipped`)."""
    from aimind.alternatives import Question
    from aimind.launchers import LAUNCHERS

    request = asked.request
    if context is not None:
        request = dataclasses.replace(request, max_model_len=context)
    return Question(
        offer=offered,
        host=host,
        request=request,
        launchers=LAUNCHERS,
        prefer_quality=asked.prefer_quality,
    )


def answer(question: Question) -> Plan | AimindError:
    """The plan, or why there is none; nothing is downloaded but headers, nothing installed."""
    from aimind import alternatives

    promised = question.host.promised
    try:
        found = alternatives.best(question)
    except DoesNotFitError as problem:
        if not promised:
            return problem
        return DoesNotFitError(problem.message, hint="; ".join([problem.hint, *promised]))
    except AimindError as problem:
        return problem
    reasons = tuple(Reason("promised", sentence) for sentence in promised)
    return dataclasses.replace(found, reasons=found.reasons + reasons)


def survey(question: Question, found: Plan | None) -> tuple[Option, ...]:
    """Every quantization, the largest first, and whether it fits; none does where no backend can serve it."""
    from aimind import alternatives

    try:
        return alternatives.survey(question, found)
    except AimindError:  # which the answer says, too
        offered = (question.offer.candidates[0], *question.offer.siblings)
        return tuple(
            alternatives.Option(model, None, guessed=True) for model in alternatives.by_size(offered)
        )


def decided(found: Plan | AimindError) -> Plan:
    """The plan, once its warnings are said.

    Raises:
        AimindError: there is none.
    """
    from aimind import plan

    if isinstance(found, AimindError):
        raise found
    for warning in plan.warnings(found):
        show.warn(warning)
    return found


def hinted(found: Plan, asked: Wanted) -> Plan:
    """The plan, with a hint where it is on a CPU for want of a GPU and the hub has the model in GGUF, too."""
    from aimind import hub

    on_cpu = not found.shards and found.metadata.format in ("safetensors", "pickle")
    if not on_cpu or found.backend.name not in ("vllm", "transformers") or asked.request.backend is not None:
        return found
    repository = hub.in_gguf(found.model)
    if repository is None:
        return found
    sentence = f"llama.cpp serves GGUF files far faster without a GPU: aimind serve {repository}"
    return dataclasses.replace(found, reasons=(*found.reasons, Reason("hint", sentence)))


def called(found: Plan) -> str:
    """The name of what is served: in the API, or the model's own where the backend gives it none."""
    from aimind import plan

    return found.settings.served_name or plan.name_of(found.model)


def with_backends(host: Host, request: Request) -> Host:
    """The machine with the backends that are here, and those that can be installed."""
    from aimind import environments
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import ListsModels

    found: list[Backend] = []
    for launcher in LAUNCHERS:
        if request.backend not in (None, launcher.NAME):
            continue
        came_from = environments.chosen(launcher.source(host))
        here = environments.find(launcher.NAME, came_from)
        if isinstance(launcher, ListsModels):
            here = tuple(_with_models(launcher.REGISTRY, backend) for backend in here)
        if request.extra or request.defaults.of(launcher.NAME).args:
            here = tuple(_with_flags(launcher, came_from, backend) for backend in here)
        found += here
        if isinstance(came_from, Package):
            found += _to_be_brought(launcher.NAME, came_from, request.version_of(launcher.NAME), here)
    return dataclasses.replace(host, backends=tuple(found))


def _with_flags(launcher: Launcher, came_from: Package | Program, backend: Backend) -> Backend:
    """The backend with the flags that it has told, or tells at once."""
    from aimind.environments import flags
    from aimind.launchers.base import TellsFlags

    if not isinstance(launcher, TellsFlags) or backend.problem is not None:
        return backend
    told = flags.known(backend, came_from, launcher.HELP)
    if told is None and launcher.HELP.quick:
        told = flags.ask(backend, came_from, launcher.HELP)
    return dataclasses.replace(backend, flags=told)


def _with_models(registry: Registry, backend: Backend) -> Backend:
    """The backend with the architectures that it can load, by its own table."""
    from aimind.environments import models

    return dataclasses.replace(backend, architectures=models.known(backend, registry))


def _to_be_brought(
    name: str, package: Package, version: str | None, here: tuple[Backend, ...]
) -> Iterator[Backend]:
    """The builds of the version asked for, or of the usual one, that are not here yet."""
    from aimind import environments

    version = version or package.version
    for build in package.builds:
        if (version, build.only) not in {(each.version, each.only) for each in here}:
            executable = environments.executable(name, build, version)
            yield Backend(
                name=name,
                version=version,
                executable=executable,
                installed=False,
                only=build.only,
                origin=build.origin,
            )


def command(plan: Plan, *, ready_probe: str = "request", scratch: str | None = None) -> Command:
    """How the plan is started, its files where the hub keeps them.

    Args:
        plan: what is started.
        ready_probe: `request` or `health`.
        scratch: the folder for files that the command brings along: an instance has one of its own.
    """
    from aimind import environments, hub
    from aimind.launchers import LAUNCHERS
    from aimind.select import named

    scratch = scratch or environments.scratch(plan.backend.name, plan.settings.port or 0)
    plan = dataclasses.replace(plan, scratch=scratch)
    made = named(plan.backend.name, LAUNCHERS).command(plan, str(hub.location(plan.model)))
    ready = made.ready
    if ready_probe == "request" and plan.metadata.category != "image":  # a picture takes minutes
        ready = dataclasses.replace(ready, request=_tiny_request(plan, made))
    shown = {name: value for name, value in made.env.items() if not is_secret(name)}
    hidden = {name: value for name, value in made.env.items() if name not in shown}
    return dataclasses.replace(
        made,
        env=shown,
        secret_env={**made.secret_env, **hidden},
        unset_env=(*made.unset_env, *PRIVATE_VARIABLES),
        ready=ready,
    )


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
            f"{plan.backend.name} is not installed, so that it cannot be asked",
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
            "llama.cpp cannot tell of a model in several files that are not here", hint="leave --exact out"
        )
    if len(sizes) != len(plan.shards) + 1:
        raise ExactSizesError(
            f"llama.cpp answers for {len(sizes) - 1} devices, and the plan has {len(plan.shards)}",
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
        ensure(backend.name, build, version=backend.version, progress=show.note)
    _check_model(plan, host)


def _check_model(plan: Plan, host: Host) -> None:
    """Now that the backend is here it can be asked whether it knows the model."""
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.base import ListsModels
    from aimind.select import lacking, named

    launcher = named(plan.backend.name, LAUNCHERS)
    if isinstance(launcher, ListsModels) and not plan.settings.force:
        backend = _with_models(launcher.REGISTRY, plan.backend)
        if (why := lacking(launcher, plan.metadata, host, backend)) is not None:
            raise UnsupportedError(
                f"{backend.name} is installed, and cannot serve this model: {why}",
                hint="the same command again takes the next backend that can",
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
    from aimind.select import named

    backend = plan.backend
    launcher = named(backend.name, LAUNCHERS)
    if not plan.settings.extra or backend.flags is not None or not isinstance(launcher, TellsFlags):
        return
    show.note(f"asking {backend.name} {backend.version} which arguments it takes")
    told = flags.ask(backend, source(backend.name, host), launcher.HELP)
    if told is None:
        show.warn(f"{backend.name} does not say which arguments it takes: yours are not checked")
    for warning in check_flags(launcher, plan.settings, dataclasses.replace(backend, flags=told)):
        show.warn(warning)


def source(name: str, host: Host) -> Package | Program:
    """Where the backend of this name comes from on such a machine."""
    from aimind import environments
    from aimind.launchers import LAUNCHERS
    from aimind.select import named

    return environments.chosen(named(name, LAUNCHERS).source(host))
