"""What `serve` shows: a plan in five lines before the backend starts, and what can be typed afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from aimind.phrases import gib, gib_of, visible
from aimind.show.terminal import is_live, is_quiet, look, write
from aimind.supervise import Screen
from aimind.supervisor.screen import BOLD, CYAN, DIM, DOT, Look, columns, duration
from aimind.types import Backend, Device, Estimate, Instance, Plan

SHORTEST_BAR, NARROW_BAR, WIDE_BAR = 4, 8, 16
WIDE_COLUMNS = 100


def start(plan: Plan, *, name: str) -> None:
    """The plan of what is about to be started under a name, on stderr."""
    if is_quiet():
        return
    shown = look()
    width = columns(sys.stderr.fileno()) if is_live() else None
    for line in summary(plan, name=name, look=shown, width=width):
        write(shown.plain(line))


def summary(plan: Plan, *, name: str, look: Look, width: int | None) -> Iterator[str]:
    """The lines: the model, each device with what is planned for it, and the context.

    Args:
        plan: what is started.
        name: of the instance.
        look: what the terminal can show.
        width: of the terminal; `None` for a file, which gets no bars.
    """
    yield _model(plan, name, look)
    rows = list(devices(plan))
    names = max(len("context"), *(len(row[0]) for row in rows))
    wide = width is None or width >= WIDE_COLUMNS
    shares = [_share(estimate, free_bytes, each=each, wide=wide) for _, estimate, free_bytes, each in rows]
    longest = max(map(len, shares))
    for (device, estimate, free_bytes, _), share in zip(rows, shares, strict=True):
        yield _memory(device.ljust(names), share.ljust(longest), estimate, free_bytes, look=look, width=width)
    if context := _context(plan):
        yield f"{look.paint('context'.ljust(names), DIM)}  {context}"


def _model(plan: Plan, name: str, look: Look) -> str:
    metadata, backend = plan.metadata, plan.backend
    size = gib(sum(file.size_bytes for file in plan.model.files))
    quantization = metadata.quantization or metadata.dtype or metadata.format
    facts = " · ".join([visible(quantization), size, f"{backend.name} {backend.version}{_state(backend)}"])
    return f"{look.paint(visible(name), BOLD)}  {facts}"


def _state(backend: Backend) -> str:
    if backend.assumed:
        return " (assumed to be installed there)"
    return "" if backend.installed else " (installed on first use)"


def devices(plan: Plan) -> Iterator[tuple[str, Estimate, int, bool]]:
    """The name of a device, what it holds, its free bytes, and whether the row stands for several alike.

    Devices of one name with the same figures share a row; otherwise the index precedes the name.
    """
    alike: dict[tuple[str, str, str], list[tuple[Device, Estimate]]] = {}
    for shard in plan.shards:
        key = shard.device.name, gib(shard.estimate.total_bytes), gib(shard.device.free_bytes)
        alike.setdefault(key, []).append((shard.device, shard.estimate))
    for (name, _, _), members in alike.items():
        device, estimate = members[0]
        short = visible(name).removeprefix("NVIDIA ")
        if len(members) > 1:
            yield f"{len(members)} × {short}", estimate, device.free_bytes, True
        elif len(alike) > 1:
            yield f"{device.index}: {short}", estimate, device.free_bytes, False
        else:
            yield short, estimate, device.free_bytes, False
    if plan.host.total_bytes:
        yield "RAM", plan.host, plan.ram_free_bytes, False


def _share(estimate: Estimate, free_bytes: int, *, each: bool, wide: bool) -> str:
    """The planned bytes beside those that are free."""
    about = "" if estimate.exact else "~"
    return (
        f"{about}{gib_of(estimate.total_bytes, free_bytes)}{' free' if wide else ''}{' each' if each else ''}"
    )


def _memory(
    name: str, used: str, estimate: Estimate, free_bytes: int, *, look: Look, width: int | None
) -> str:
    """A row: the name, a bar where there is room for one, the planned bytes, and their parts."""
    parts = f"   {_parts(estimate)}"
    line = f"{look.paint(name, DIM)}  "
    if width is None:
        return line + used + parts
    room = width - 1 - len(name) - len(used) - 4  # twice two blanks, and the last column
    if room - len(parts) < SHORTEST_BAR:
        parts = ""
    bar = min(WIDE_BAR if width >= WIDE_COLUMNS else NARROW_BAR, room - len(parts))
    if bar >= SHORTEST_BAR:
        share = min(estimate.total_bytes / free_bytes, 1.0) if free_bytes else 1.0
        line += f"{look.paint(look.bar(share, bar), CYAN)}  "
    return line + used + look.paint(parts, DIM)


def _parts(estimate: Estimate) -> str:
    """Weights, cache and the rest, all in the unit of their sum."""
    weights = estimate.weights_bytes + estimate.repacked_bytes
    cache = estimate.kv_cache_bytes + estimate.state_bytes + estimate.checkpoint_bytes
    rest = estimate.total_bytes - weights - cache
    in_gib = estimate.total_bytes >= 1 << 30
    shown = []
    for title, size in (("weights", weights), ("cache", cache), ("rest", rest)):
        number = size / (1 << 30 if in_gib else 1 << 20)
        if number < 0.05:  # it would be shown as 0.0
            continue
        shown.append(f"{title} {number:.1f}" if in_gib or number < 10 else f"{title} {number:.0f}")
    return " · ".join(shown)


def _context(plan: Plan) -> str:
    settings = plan.settings
    if not settings.max_model_len:  # a speech model has none
        return ""
    count = plan.requests_at_once
    return f"{settings.max_model_len:,} tokens, {count} request{'s' if count > 1 else ''} at once"


def screen(plan: Plan, *, name: str) -> Screen | None:
    """How the supervisor draws on this terminal; `None` where it passes the backend's log through."""
    if not is_live():
        return None
    shown = look()
    chats = plan.metadata.category in ("llm", "vision-language")
    return Screen(
        color=shown.color, unicode=shown.unicode, next=_next(name, chats=chats, stop="Ctrl-C stops it")
    )


def ready(instance: Instance, *, seconds: float, announcement: str, again: bool = False) -> None:
    """Show that an instance in the background is ready.

    Args:
        instance: which one.
        seconds: how long its start took.
        announcement: the lines for stdout where that is no terminal, and where stderr is none.
        again: it was ready before.
    """
    if is_live():
        shown = look()
        word = "ready again" if again else "ready"
        write(shown.done(f"{word} in {duration(seconds)}   {shown.paint(f'{instance.url}/v1', BOLD)}"))
        chats = any(word.endswith("/chat/completions") for word in instance.example[:1])
        following = _next(instance.name, chats=chats, stop=f"aimind stop {instance.name}")
        write(shown.paint(f"  {following}", DIM))
        if sys.stdout.isatty():
            return
    if not is_quiet():
        print(announcement)  # noqa: T201


def _next(name: str, *, chats: bool, stop: str) -> str:
    """What can be typed once the instance is ready."""
    commands = [f"aimind chat {name}"] if chats else []
    commands += [f"aimind logs {name} -f", stop]
    return f"   {look().sign(DOT)}   ".join(commands)
