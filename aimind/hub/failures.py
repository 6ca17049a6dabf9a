"""What went wrong at a hub, in the words of errors.py, and when another try is worth it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from aimind.errors import AimindError, DoesNotFitError, HubError, ModelNotFoundError
from aimind.hub.http import ChangedError, NonsenseError, RefusedError, failures, is_transport
from aimind.hub.transport import ProxyError, SlowError
from aimind.redaction import quoted, without_secrets
from aimind.types import Reference

# Before the second and the third try.
WAITS_SECONDS = (0.2, 0.8)
# A server that wants more patience than this gets an error instead, that says so.
LONGEST_WAIT_SECONDS = 60.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

Result = TypeVar("Result")
Explain = Callable[[Exception], AimindError]


@dataclass(frozen=True)
class Site:
    """A hub as sentences name it.

    Attributes:
        endpoint: its address.
        page: that of a repository, with `{}` for its name.
        default_revision: of a repository.
        login: what to do for a token.
        endpoint_variable, home_variable: the variables that set its address and its cache directory.
        alternative: how to download where this hub is blocked; empty if there is no other way.
    """

    endpoint: str
    page: str
    default_revision: str
    login: str
    endpoint_variable: str
    home_variable: str
    alternative: str = ""


def retried(call: Callable[[], Result], explain: Explain, waits: Sequence[float] | None = None) -> Result:
    """What the call returns, tried again where the hub was busy or the connection broke.

    `waits`: seconds before each further try; `WAITS_SECONDS` unless said.

    Raises:
        AimindError: the last failure, explained.
    """
    for wait in (*(WAITS_SECONDS if waits is None else waits), None):
        try:
            return call()
        except failures() as error:
            pause = None if wait is None or not is_transient(error) else patience(error, wait)
            if pause is None:
                raise explain(error) from error
            time.sleep(pause)
    raise AssertionError


def is_transient(error: Exception) -> bool:
    """Whether the same request may well succeed in a moment."""
    import httpx2

    if isinstance(error, RefusedError):
        return error.status in _TRANSIENT
    return isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError))


def patience(error: Exception, wait_seconds: float) -> float | None:
    """How long to wait before the next try: as the server says, or else this long; `None`: too long."""
    asked = error.wait_seconds if isinstance(error, RefusedError) else None
    if asked is None:
        return wait_seconds
    return max(asked, wait_seconds) if asked <= LONGEST_WAIT_SECONDS else None


def is_unreachable(error: BaseException | None) -> bool:
    """Whether nobody answered, or only to say that the hub is down: what is in the cache may do instead."""
    return error.status >= 500 if isinstance(error, RefusedError) else is_transport(error)


def explain(error: Exception, reference: Reference, site: Site) -> AimindError:
    """The error to show for what went wrong with a repository."""
    site = replace(site, endpoint=without_secrets(site.endpoint), page=without_secrets(site.page))
    name, endpoint = reference.name, site.endpoint
    if isinstance(error, RefusedError):
        return _refused(error, reference, site)
    if isinstance(error, ChangedError):
        return HubError(
            f"{name}: {error}",
            hint="Try again: it may be changing. If that fails too, the hub or a proxy in between is broken.",
        )
    if isinstance(error, NonsenseError):
        return HubError(
            f"{endpoint} {error}, when asked about {name}",
            hint=f"Check {site.endpoint_variable}, and proxies in between.",
        )
    if isinstance(error, ProxyError):
        return HubError(
            f"{endpoint} cannot be reached: {quoted(error)}",
            hint="Set that variable to http://HOST:PORT or socks5://HOST:PORT, or unset it; "
            "`serve --offline` uses the cache.",
        )
    if isinstance(error, SlowError):
        return HubError(
            f"{endpoint} is too slow for {name}: it {quoted(error)}",
            hint="Try again later, which resumes the download, or set HF_HUB_ETAG_TIMEOUT and "
            "HF_HUB_DOWNLOAD_TIMEOUT to more than 10 seconds; `serve --offline` uses the cache.",
        )
    if is_transport(error):
        return HubError(
            f"{endpoint} cannot be reached: {quoted(error)}",
            hint=f"Check the network and {site.endpoint_variable}; `serve --offline` uses the cache."
            f"{site.alternative}",
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DoesNotFitError(
            f"the disk is full: {name} could not be downloaded",
            hint=f"Make room and try again, which resumes the download; or set {site.home_variable} to a "
            "folder on a larger disk.",
        )
    return HubError(
        f"{name} could not be downloaded: {quoted(error)}",
        hint=f"Try again; check the space and the permissions of the cache ({site.home_variable}).",
    )


def _refused(error: RefusedError, reference: Reference, site: Site) -> AimindError:
    name, page = reference.name, site.page.format(reference.name)
    match error.why:
        case "gated":
            return HubError(
                f"{name} is gated: its authors approve who may download it",
                hint=f"Accept its terms on {page}, then {site.login}.",
            )
        case "revision":
            return ModelNotFoundError(
                f"{name} has no revision {reference.revision or site.default_revision}",
                hint=f"Its branches and tags are on {page}.",
            )
        case "repository":
            return ModelNotFoundError(
                f"there is no {name} on {site.endpoint}, or it is private",
                hint=f"Check the spelling; if it is private, {site.login}.",
            )
        case "file":
            return ModelNotFoundError(
                f"{name} no longer has a file that it listed",
                hint="Try again: the repository is being changed.",
            )
    return _explain_status(error, name, site)


def _explain_status(error: RefusedError, name: str, site: Site) -> AimindError:
    status = error.status
    if status in {401, 403}:
        return HubError(
            f"{site.endpoint} refused access to {name} (HTTP {status})",
            hint=f"Check that your token may read it: {site.login}.",
        )
    if status == 429:
        wait = "some minutes" if error.wait_seconds is None else f"{error.wait_seconds:.0f} s"
        return HubError(
            f"{site.endpoint} refuses more requests for now (HTTP 429)",
            hint=f"Wait {wait}; the limit is higher when you {site.login}.",
        )
    if status >= 500:
        return HubError(
            f"{site.endpoint} reports a server error (HTTP {status})",
            hint="Try again later; `serve --offline` uses the cache.",
        )
    return HubError(
        f"{site.endpoint} answered HTTP {status} for {name}",
        hint=f"Check {site.endpoint_variable}, and proxies in between.",
    )
