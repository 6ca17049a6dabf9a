"""The backend's output: passed through as it comes, and read for what it means."""

from __future__ import annotations

import os
import re
import select
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aimind.supervisor.spec import Buffer, Signature

PENDING_BYTES = 256 * 1024
SHORTEST_SECRET_BYTES = 6  # a shorter one would be found in much that is none
LINE_BYTES = 4096


class Mask:
    """What the backend printed, with `***` for its secrets: those that come in two pieces too.

    An end that may begin one is kept until it is seen how it goes on.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        encoded = {secret.encode(errors="surrogateescape") for secret in secrets}
        self._secrets = sorted((s for s in encoded if len(s) >= SHORTEST_SECRET_BYTES), key=len, reverse=True)
        self._kept = b""

    def __call__(self, data: bytes) -> bytes:
        """What can be shown by now."""
        if not self._secrets:
            return data
        data = self._kept + data
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        kept = max(_begun(secret, data) for secret in self._secrets)
        self._kept = data[len(data) - kept :]
        return data[: len(data) - kept]

    def end(self) -> bytes:
        """Return what was retained."""
        kept, self._kept = self._kept, b""
        return kept


class Filter:
    """What the backend printed, without the lines that its access log has for our probes.

    These are HTTP/1.0, which no usual client speaks. A line that comes in two pieces is left as it is.
    """

    def __init__(self, path: str) -> None:
        """`path`: that the probes ask for."""
        self._request = f"GET {path} HTTP/1.0".encode()

    def __call__(self, data: bytes) -> bytes:
        """What is left."""
        if self._request not in data:
            return data
        lines = data.splitlines(keepends=True)
        return b"".join(line for line in lines if self._request not in line)


def _begun(secret: bytes, data: bytes) -> int:
    """How many bytes at the end of the data begin the secret."""
    if data[-1:] not in secret:  # as the end of a line is not
        return 0
    longest = min(len(secret) - 1, len(data))
    return next((n for n in range(longest, 0, -1) if data.endswith(secret[:n])), 0)


class Lines:
    """Where the backend's output goes, and lines of ours that never begin inside one of its own.

    Attributes:
        inside_line: what was written last is not a whole line.
    """

    def __init__(self) -> None:
        self.inside_line = False
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Write what the backend printed."""
        self._add(data)

    def write_line(self, line: str) -> None:
        """Write `line` as a line of its own."""
        self.end_line()
        self._add(line.encode(errors="replace") + b"\n")

    def end_line(self) -> None:
        """End a line that has begun."""
        if self.inside_line:
            self._add(b"\n")

    def _add(self, data: bytes) -> None:
        if data:
            self.inside_line = not data.endswith(b"\n")
        self._put(data)  # also without any: what was left out is said

    def _put(self, data: bytes) -> None:
        raise NotImplementedError


class Output(Lines):
    """A descriptor that is written to without ever waiting for its reader.

    Its reader may stall or end. What does not fit into `PENDING_BYTES` is left out, and counted in a line
    that takes its place; lines of ours never are. What nobody can read any more is dropped.

    Attributes:
        fd: the descriptor.
        pending: what waits until the descriptor takes more.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.pending = bytearray()

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it, or leave it out."""
        if self.pending and len(self.pending) + len(data) > PENDING_BYTES:
            self._left_out += len(data)
            return
        self._add(data)

    def _put(self, data: bytes) -> None:
        if self._left_out:
            self.pending += b"\naimind: %d bytes left out, which nobody read\n" % self._left_out
            self._left_out = 0
        self.pending += data
        self.pump()

    def pump(self, timeout_seconds: float = 0.0) -> None:
        """Write what the descriptor takes; wait so long for its reader where it does not take more."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        # At most PIPE_BUF bytes after each poll: it promises that so many can be written without waiting.
        # (The descriptor itself stays blocking: others share it, the user's shell for one.)
        while self.pending and poll.poll(timeout_seconds * 1000):
            try:
                written = os.write(self.fd, self.pending[: select.PIPE_BUF])
            except OSError:  # closed, or the disk is full: the backend goes on all the same
                self.pending.clear()
                return
            del self.pending[:written]


class Log:
    """What the output of one run says.

    Attributes:
        last_lines: the newest ten, cut at 4 KiB.
        cause: the first signature with a cause that matched; one that is only a fallback gives way to others.
        phase: that the newest signature with one has begun.
        percent: how far it is in that, where the line says so (the pattern's group `percent`, or a dot for
            each percent in its group `dots`).
        news: what was read last says more than that it was asked how it is; some servers log each request.
    """

    def __init__(
        self, signatures: Sequence[Signature], *, question: str, buffers: Sequence[Buffer] = ()
    ) -> None:
        """`question`: in a line that only says that we have asked."""
        self._buffers = [(re.compile(each["pattern"]), each) for each in buffers]
        self._sizes: dict[tuple[int, str], float] = {}
        patterns = [(re.compile(s["pattern"]), s) for s in signatures]
        self._causes = [(pattern, s) for pattern, s in patterns if s["cause"]]
        self._phases = [(pattern, s["phase"]) for pattern, s in patterns if s["phase"]]
        self._partial = b""
        self._question = question.encode()
        self.news = False
        self.last_lines: deque[str] = deque(maxlen=10)
        self.cause: Signature | None = None
        self.phase: str | None = None
        self.percent: int | None = None

    def feed(self, data: bytes) -> None:
        """Read on."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        lines = [line for line in lines if self._question not in line]
        self.news = bool(lines or self._partial)
        for line in lines:
            self._read(line)
        bar = self._partial.rpartition(b"\r")[2]
        if bar:  # of a progress bar only the newest state
            self._partial = bar[:LINE_BYTES]
            self._see_phase(_text(bar))

    def end(self) -> None:
        """Take a last line that did not end."""
        if self._partial:
            self._read(self._partial)

    @property
    def buffers(self) -> dict[str, float]:
        """Bytes of the buffers that were named, by the place of their device among the backend's."""
        found: dict[str, float] = {}
        for (_, device), size in self._sizes.items():
            found[device] = found.get(device, 0.0) + size
        return found

    @property
    def fatal(self) -> bool:
        """Whether the backend logged that it cannot continue."""
        return self.cause is not None and self.cause["fatal"]

    def _read(self, line: bytes) -> None:
        text = _text(line)
        self.last_lines.append(text)
        self._see_cause(text)
        self._see_phase(text)
        self._see_buffer(text)

    def _see_cause(self, text: str) -> None:
        if self.cause is not None and not self.cause["fallback"]:
            return
        for pattern, signature in self._causes:
            if pattern.search(text) and (self.cause is None or not signature["fallback"]):
                self.cause = signature
                return

    def _see_buffer(self, text: str) -> None:
        for number, (pattern, line) in enumerate(self._buffers):
            if found := pattern.search(text):
                key = number, found["device"]
                before = 0.0 if line["replaces"] else self._sizes.get(key, 0.0)
                self._sizes[key] = before + float(found["size"]) * line["unit_bytes"]

    def _see_phase(self, text: str) -> None:
        for pattern, phase in self._phases:
            if found := pattern.search(text):
                self.phase = phase
                self.percent = _percent(found.groupdict())
                return


def _percent(groups: dict[str, str | None]) -> int | None:
    dots, percent = groups.get("dots"), groups.get("percent")
    if dots:
        return len(dots)
    return int(percent) if percent else None


def _text(line: bytes) -> str:
    """What is seen of a line, cut at `LINE_BYTES`."""
    return line[:LINE_BYTES].decode(errors="replace").rstrip("\r").rpartition("\r")[2]


# The same as in `aimind.phrases`, which cannot be imported here.
_INVISIBLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


# What of a program's output a terminal may obey: colors, tabs, the ends of lines, and going back to a line's
# begin, as progress bars do. The rest as above, in UTF-8; its begin, where data ends inside of it.
_COLOR = rb"\x1b\[[0-9;]{0,32}m"
_OBEYED = re.compile(
    _COLOR
    + rb"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]"
    + rb"|\xe2\x81[\xa6-\xa9]"
)
_BEGUN = re.compile(rb"(?:\x1b(?:\[[0-9;]{0,32})?|\xc2|\xd8|\xe2[\x80\x81]?)\Z")


class Terminal:
    """What a backend printed, for a terminal: nothing moves the cursor up, sets a title, or reverses text.

    An end that may begin something like that is kept until it is seen how it goes on.
    """

    def __init__(self) -> None:
        self._kept = b""

    def __call__(self, data: bytes) -> bytes:
        """What can be shown by now."""
        data = self._kept + data
        begun = _BEGUN.search(data)
        self._kept = data[begun.start() :] if begun else b""
        return _OBEYED.sub(_shown, data[: len(data) - len(self._kept)])

    def end(self) -> bytes:
        """Return what was retained."""
        kept, self._kept = self._kept, b""
        return _OBEYED.sub(_shown, kept)


def _shown(found: re.Match[bytes]) -> bytes:
    if found[0].endswith(b"m"):
        return found[0]
    return ascii(found[0].decode())[1:-1].encode()


def visible(text: str) -> str:
    """The text on one line, without colors, and with what a terminal would obey as Python writes it."""
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], _COLORS.sub("", text))
