"""How sizes, times and devices are said in sentences."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Sequence

from aimind.types import Device, Host


def gib(size_bytes: int) -> str:
    """A size for a sentence: `15.3 GiB`, `420 MiB`, `7.2 MiB`, `64 KiB`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size_bytes >= unit:
            digits = 0 if name == "MiB" and size_bytes >= 10 * unit else 1
            return f"{size_bytes / unit:.{digits}f} {name}"
    return f"{-(-size_bytes // 1024)} KiB"


def counted(number: int, noun: str) -> str:
    """A number of things for a sentence: `1 request`, `2 requests`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def gib_of(part_bytes: int, whole_bytes: int) -> str:
    """A part of a size: `8.9 of 24.0 GiB`, `147 MiB of 21.9 GiB`."""
    part, whole = gib(part_bytes), gib(whole_bytes)
    number, _, unit = part.partition(" ")
    return f"{number if whole.endswith(f' {unit}') else part} of {whole}"


def here(host: Host) -> str:
    """`here` for this machine, `there` for one that `--hardware` describes."""
    return "there" if host.elsewhere else "here"


def machine(host: Host) -> str:
    """`this machine`, or `that machine` for one that `--hardware` describes."""
    return "that machine" if host.elsewhere else "this machine"


def devices_hint(host: Host) -> str:
    """A hint that tells which devices the machine has: where to look, or what `--hardware` describes."""
    if not host.elsewhere:
        return "see `aimind devices`"
    described = [f"device {device.index} with {gib(device.free_bytes)} free" for device in host.devices]
    return f"--hardware describes {', '.join(described) or 'a machine without devices'}"


def age(since: float) -> str:
    """How long ago that was (seconds since 1970), in its largest unit: `3 d`."""
    seconds = max(0.0, time.time() - since)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def names(devices: Sequence[Device]) -> str:
    """Devices for a sentence: `device 0`, `devices 0, 1`."""
    numbers = ", ".join(str(device.index) for device in devices)
    return f"device{'s' if len(devices) > 1 else ''} {numbers}"


# What a terminal obeys instead of showing it, and what makes text be read in another order than is written:
# C0 and C1 controls, the marks of Unicode's bidirectional algorithm (UAX 9), and its separators of lines.
_INVISIBLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str) -> str:
    """The text on one line, with what a terminal would obey as Python writes it: names may hold anything."""
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_output(text: str) -> str:
    """The same for a line that a program has printed, without its colors."""
    return visible(_COLORS.sub("", text))


def shell_join(words: Sequence[str]) -> str:
    """The words as a line that can be pasted into a shell (bash, zsh, ksh, busybox), all of it visible."""
    return " ".join(map(shell_quote, words))


def shell_quote(word: str) -> str:
    """One word of such a line; what a terminal would obey is written as `$'…'` has it."""
    if visible(word) == word and "\t" not in word:
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'").replace("\t", "\\t")
    return f"$'{_INVISIBLE.sub(_octal, plain)}'"


def _octal(found: re.Match[str]) -> str:
    """The bytes of a character, which are the same in every locale, unlike its number."""
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(found[0]))


def visible_json(text: str) -> str:
    """The same document, with the characters that a terminal would obey as JSON's own escapes."""
    return _INVISIBLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
