"""The bytes of one file over several connections, in order.

The file is cut into segments. The first one that is not whole is written and hashed as it comes, by one
thread while the others receive; those behind it are held in memory until their turn, at most one chunk for
each connection. So the file on
the disk is at any moment the beginning of the content, as the hubs' own clients leave it, and the next
download goes on with it after a KILL: what was held in memory then comes twice. A connection that has
nothing left to fetch takes half of what another one has still to come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from aimind.hub.failures import is_transient, patience
from aimind.hub.http import ChangedError, RefusedError, Remote, body, failures
from aimind.hub.ranges import range_headers, start_of
from aimind.hub.transport import SlowError
from aimind.types import File

CONNECTIONS = 8
# What each further connection fetches at once, and holds in memory.
CHUNK_BYTES = 16 << 20
# No more is asked for at once: servers of files cut off answers of 50 GB.
PART_BYTES = 8 << 30
# After a connection of several has failed: how long one is not replaced.
REST_SECONDS = 2.0
# The first connection takes all there is again after so long without help.
ALONE_AFTER_SECONDS = 5.0
# Less than this part of a chunk is not split between two connections.
_SMALLEST_SPLIT = 4
_POLL_SECONDS = 0.5
_IDLE_SECONDS = 0.05


class StoppedError(Exception):
    """Another file failed, or the user gave up: this download ends too."""


class CutError(ChangedError):
    """An answer ended early: of a connection that broke, or of a file that is shorter."""


@dataclass(eq=False)
class _Segment:
    """A part of the file, up to before `stop`.

    Attributes:
        at: the next byte to come.
        written: the first byte that is not yet written; those from there to `at` are `held`.
    """

    at: int
    stop: int
    written: int
    held: list[bytes] = field(default_factory=list)
    is_taken: bool = False

    @property
    def left_bytes(self) -> int:
        return self.stop - self.at


@dataclass(frozen=True)
class Sink:
    """Where the bytes go.

    Attributes:
        write: gets all of them in order; advance: how many have come, in any order.
        stop: set where another file failed, or the user gave up.
    """

    write: Callable[[bytes], None]
    advance: Callable[[int], None]
    stop: threading.Event


class Transfer:
    """Brings a file from `start` to its end.

    Attributes:
        left_bytes: that are to come, over all connections.
    """

    def __init__(
        self, remote: Remote, file: File, *, start: int, sink: Sink, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._remote, self._file, self._sink = remote, file, sink
        self._chunk_bytes = chunk_bytes
        self._segments: list[
            _Segment
        ] = []  # in the order of the file, without gaps, the written ones removed
        self._next = start  # the first byte that is in no segment
        self._changed = threading.Condition()
        self._location = remote.url
        self._connections = 0
        self._most_connections = CONNECTIONS
        self._rest_until = 0.0
        self._helped_until = 0.0  # others are expected to come again till then
        self._is_writing = False
        self._problem: BaseException | None = None  # what could not be written
        self.left_bytes = file.size_bytes - start

    # ── Threads ─────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, waits_seconds: Sequence[float]) -> None:
        """Fetch until all is written; `waits_seconds`: before each try after one that brought nothing.

        Raises:
            StoppedError: somebody set `stop`.
            Exception: as in `failures()`, once tries are of no use any more.
        """
        waits = iter(waits_seconds)
        while self.left_bytes or self._segments:
            left = self.left_bytes
            segment = self._take(is_first=True)
            if segment is None:
                if not self._write_what_is_in_turn():
                    self._wait_for_others()
                continue
            try:
                self._receive(segment)
            except failures() as error:
                if self._problem is not None:
                    raise
                if self._is_refused_beside_others(error):
                    self._wait_for_others()
                    continue
                if self.left_bytes < left and not isinstance(error, SlowError):
                    waits = iter(waits_seconds)
                self._pause(error, waits)
            finally:
                self._give_back(segment)

    def help(self) -> bool:
        """Fetch one segment beside the others; whether there was anything to do.

        What goes wrong here, `run` finds out, too, and explains.

        Raises:
            StoppedError: somebody set `stop`.
        """
        segment = self._take(is_first=False)
        if segment is None and self._is_busy():
            with self._changed:
                self._changed.wait(_IDLE_SECONDS)
            segment = self._take(is_first=False)
        if segment is None:
            return False
        try:
            self._receive(segment, is_first=False)
        except failures() as error:
            with self._changed:
                self._rest_until = time.monotonic() + REST_SECONDS
            self._is_refused_beside_others(error)
        finally:
            self._helped_until = time.monotonic() + ALONE_AFTER_SECONDS
            self._give_back(segment)
        return True

    def _is_refused_beside_others(self, error: Exception) -> bool:
        """Whether a server refused one connection beside others, or soon after: then there shall be fewer."""
        if not isinstance(error, (RefusedError, _NoRangesError)):
            return False
        with self._changed:
            if self._connections < 2 and time.monotonic() > self._helped_until:
                return False
            self._most_connections = max(1, self._connections - 1)
            return True

    def _is_busy(self) -> bool:
        """Whether there is more to do as soon as another connection has ended its segment."""
        with self._changed:
            return self._wants_help()

    def _pause(self, error: Exception, waits: Iterator[float]) -> None:
        """Wait before the next try, or raise the error."""
        wait = next(waits, None)
        pause = None if wait is None or not _may_pass(error) else patience(error, wait)
        if pause is None:
            raise error
        if self._sink.stop.wait(pause):
            raise StoppedError from error

    def _wait_for_others(self) -> None:
        with self._changed:
            self._changed.wait(_POLL_SECONDS)
            if self._problem is not None:
                raise self._problem
        if self._sink.stop.is_set():
            raise StoppedError

    # ── Who fetches what ────────────────────────────────────────────────────────────────────────────────────

    def _take(self, *, is_first: bool) -> _Segment | None:
        """A segment for a connection, if there is any; the first one takes all there is while it is alone."""
        with self._changed:
            if not is_first and not self._wants_help():
                return None
            segment = next((each for each in self._segments if not each.is_taken and each.left_bytes), None)
            if segment is None:
                segment = self._new_segment(is_first=is_first) or self._half_of_another()
            if segment is not None:
                segment.is_taken = True
                self._connections += 1
                if not is_first:
                    self._helped_until = time.monotonic() + ALONE_AFTER_SECONDS
            return segment

    def _wants_help(self) -> bool:
        return (
            1 <= self._connections < self._most_connections
            and self.left_bytes >= self._chunk_bytes
            and time.monotonic() >= self._rest_until
        )

    def _new_segment(self, *, is_first: bool) -> _Segment | None:
        if not is_first and self._segments:
            # The first connection fetches all the rest as long as it is alone: now it gets a chunk of it.
            last = self._segments[-1]
            if last.left_bytes > self._chunk_bytes:
                last.stop = last.at + self._chunk_bytes
                self._next = last.stop
        length = min(self._chunk_bytes, self._room_bytes())
        if self._next >= self._file.size_bytes or length < self._chunk_bytes // _SMALLEST_SPLIT:
            return None
        if is_first and time.monotonic() > self._helped_until:  # it is alone
            length = PART_BYTES
        stop = min(self._next + length, self._file.size_bytes)
        segment = _Segment(at=self._next, stop=stop, written=self._next)
        self._segments.append(segment)
        self._next = segment.stop
        return segment

    def _room_bytes(self) -> int:
        """How much more may be fetched before the first segment is written: one chunk for each connection."""
        unwritten = sum(each.stop - each.written for each in self._segments)
        return self._most_connections * self._chunk_bytes - unwritten

    def _half_of_another(self) -> _Segment | None:
        """The second half of what another has still to come, where that is worth a request."""
        is_end = self._next >= self._file.size_bytes
        others = self._segments if is_end else self._segments[:1]  # which all those behind it wait for
        longest = max(others, key=lambda each: each.left_bytes, default=None)
        if longest is None or longest.left_bytes < self._chunk_bytes // _SMALLEST_SPLIT:
            return None
        middle = longest.at + longest.left_bytes // 2
        half = _Segment(at=middle, stop=longest.stop, written=middle)
        longest.stop = middle
        self._segments.insert(self._segments.index(longest) + 1, half)
        return half

    def _give_back(self, segment: _Segment) -> None:
        with self._changed:
            segment.is_taken = False
            self._connections -= 1
            self._changed.notify_all()

    # ── One connection ──────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, segment: _Segment, *, is_first: bool = True) -> None:
        """Accept what comes, until the segment ends or the connection breaks."""
        location = self._location
        try:
            self._receive_from(location, segment, is_first=is_first)
        except RefusedError as refusal:
            if location == self._remote.url or refusal.status >= 500 or refusal.status == 429:
                raise
            self._location = self._remote.url  # it was signed for some minutes, which are over
            self._receive_from(self._remote.url, segment, is_first=is_first)

    def _receive_from(self, url: str, segment: _Segment, *, is_first: bool) -> None:
        size, what = self._file.size_bytes, self._file.path
        start, stop = segment.at, segment.stop
        if start >= stop:
            return
        is_whole = (start, stop) == (0, size)
        headers = {"Accept-Encoding": "identity"} if is_whole else range_headers(start, stop)
        with self._remote.get(headers, start=url) as response:
            skipped = start_of(response, start, stop, size, what=what)
            if skipped and not is_first:
                raise _NoRangesError(f"the server of {what} sends no parts of it")
            self._location = str(response.url)
            # A chunk leaves its connection to the next one; a long answer is read in a cheaper way.
            for received in body(response, keep_connection=stop - start <= self._chunk_bytes):
                piece = received[skipped:]
                skipped = max(0, skipped - len(received))
                is_wanted = self._accept(segment, piece)
                if not is_wanted and segment.stop < stop:  # another connection fetches the rest of it
                    return
        if segment.left_bytes:
            raise CutError(f"{what} has fewer than the {size:,} bytes that were listed")

    def _accept(self, segment: _Segment, piece: bytes) -> bool:
        """Write or hold what came; whether more is wanted."""
        if self._sink.stop.is_set():
            raise StoppedError
        size = self._file.size_bytes
        if segment.at + len(piece) > size:
            raise ChangedError(f"{self._file.path} has more than the {size:,} bytes that were listed")
        with self._changed:
            if self._problem is not None:
                raise self._problem
            piece = piece[: segment.left_bytes]
            segment.held.append(piece)
            segment.at += len(piece)
            self.left_bytes -= len(piece)
            self._sink.advance(len(piece))
        self._write_what_is_in_turn()
        with self._changed:
            return segment.at < segment.stop

    def _write_what_is_in_turn(self) -> bool:
        """Write what has come of the first segment, unless another thread is writing; whether anything was.

        Others receive meanwhile. What they add is written by the next call of any thread, so that none writes
        for all while its own connection waits.
        """
        with self._changed:
            if self._problem is not None:
                raise self._problem  # a gap would be left
            if self._is_writing or not self._segments:
                return False
            self._is_writing = True
            first = self._segments[0]
            pieces, first.held = first.held, []
        try:
            for piece in pieces:
                self._sink.write(piece)
        except BaseException as problem:
            self._problem = problem
            raise
        finally:
            with self._changed:
                self._is_writing = False
        with self._changed:
            first.written += sum(map(len, pieces))
            is_whole = first.at >= first.stop and not first.held
            if is_whole:
                self._segments.remove(first)
                self._changed.notify_all()
        return is_whole or bool(pieces)


class _NoRangesError(ChangedError):
    """A server sends the whole file where a part of it was asked for."""


def _may_pass(error: Exception) -> bool:
    import httpx2

    if isinstance(error, (CutError, SlowError, httpx2.NetworkError, httpx2.TimeoutException)):
        return True
    return is_transient(error)
