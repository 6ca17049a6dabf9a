"""What went wrong at Hugging Face, in the words of errors.py, and when another try is worth it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from aimind.errors import AimindError, HubError, ModelNotFoundError
from aimind.hub import cache
from aimind.types import Reference

# Before the second and the third try.
WAITS_SECONDS = (0.2, 0.8)
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"

Result = TypeVar("Result")
Explain = Callable[[Exception], AimindError]


def retried(call: Callable[[], Result], explain: Explain) -> Result:
    """What the call returns, tried again where the hub was busy or the connection broke.

    Raises:
        AimindError: the last failure, explained.
    """
    import httpx2

    for wait in (*WAITS_SECONDS, None):
        try:
            return call()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            if wait is None or not _is_transient(error):
                raise explain(error) from error
            time.sleep(wait)
    raise AssertionError


def explainer(reference: Reference) -> Explain:
    """`explain`, for this repository at the hub that is in use."""
    return lambda error: explain(error, reference, cache.endpoint())


def is_unreachable(error: BaseException | None) -> bool:
    """Whether nobody answered, or only to say that the hub is down: what is in the cache may do instead."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, (httpx2.TransportError, errors.OfflineModeIsEnabled))


def explain(error: Exception, reference: Reference, endpoint: str) -> AimindError:
    """The error to show for what the client raised about a repository."""
    import httpx2
    from huggingface_hub import errors

    name, page = reference.name, f"{endpoint}/{reference.name}"
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return explain(error.__cause__, reference, endpoint)
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{name} is gated: its authors want to know who uses it",
            hint=f"Accept its terms on {page}, then {_LOGIN}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{name} has no revision {reference.revision or 'main'}",
            hint=f"Its branches and tags are on {page}/tree/main.",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or _is_unauthorized(error):
        return ModelNotFoundError(
            f"there is no {name} on {endpoint}, or it is private",
            hint=f"Check the spelling; if it is private, {_LOGIN}.",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelNotFoundError(
            f"{name} no longer has a file that it listed", hint="Try again; it is being changed."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error.response.status_code, name, endpoint)
    if isinstance(error, (httpx2.HTTPError, httpx2.InvalidURL, errors.OfflineModeIsEnabled)):
        return HubError(
            f"{endpoint} cannot be reached: {_line(error)}",
            hint="Check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 serves what is in the cache.",
        )
    return HubError(
        f"{name} could not be fetched: {_line(error)}",
        hint="Try again; check the space and the permissions of the cache (HF_HOME).",
    )


def _is_unauthorized(error: Exception) -> bool:
    """The hub's answer to somebody unknown who asks for what is private, or is not there at all."""
    from huggingface_hub import errors

    return (
        isinstance(error, errors.HfHubHTTPError)
        and error.response.status_code == 401
        and error.response.headers.get("X-Error-Message") != "Invalid credentials in Authorization header"
    )


def _explain_status(status: int, name: str, endpoint: str) -> AimindError:
    if status in {401, 403}:
        return HubError(
            f"{endpoint} refused access to {name} (HTTP {status})",
            hint=f"Check that your token may read it: {_LOGIN}.",
        )
    if status == 429:
        return HubError(
            f"{endpoint} has had too many requests from here (HTTP 429)",
            hint=f"Wait some minutes; the limit is higher when you {_LOGIN}.",
        )
    if status >= 500:
        return HubError(
            f"{endpoint} is out of order (HTTP {status})",
            hint="Try again later; HF_HUB_OFFLINE=1 serves what is in the cache.",
        )
    return HubError(
        f"{endpoint} answered HTTP {status} for {name}", hint="Check HF_ENDPOINT, and proxies on the way."
    )


def _is_transient(error: Exception) -> bool:
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
