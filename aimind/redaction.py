"""Removes secrets from text that is about to be shown or written to a file.

Messages of libraries quote their arguments: a header with a token, an address with a password. Every message
that quotes a library's exception does so through `quoted`; `show` and the log of a bug also pass their text
through `without_secrets`, and JSON documents through `redacted`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
# A shorter value would also be found in words that are no secret.
SHORTEST_SECRET = 6
LONGEST_QUOTE = 400
# Names of environment variables whose value is a secret; the names of files with one end otherwise.
_SECRET_NAME = re.compile(r"(?i)(TOKEN|(API|ACCESS|SECRET|PRIVATE)_?KEY|SECRET|PASSWORD|PASSWD)$")
_PATTERNS = (
    # The user and the password of an address.
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|authorization:?\s+basic)\s+[^\s'\"]+"), rf"\1 {HIDDEN}"),
    # Signatures in addresses that storage services sign for some minutes, and tokens given in a query.
    (
        re.compile(
            r"(?i)([?&;](?:X-[A-Za-z]+-(?:Credential|Signature|Security-Token)|Signature|sig|token|access_token"
            r"|auth_key|api_key|password|Policy|Key-Pair-Id|OSSAccessKeyId)=)[^&\s'\"]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)(m_session_id=)[^;\s'\"]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), HIDDEN),
)
_known: set[str] = set()


def remember(secret: str) -> None:
    """Redact this secret from now on; used for secrets that were read from a file."""
    _known.add(secret)


def without_secrets(text: str) -> str:
    """The text with `***` in the place of each secret that is known or that looks like one."""
    for piece in sorted(_pieces(), key=len, reverse=True):
        text = text.replace(piece, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: object) -> object:
    """The JSON value with all its texts without secrets; names of fields stay as they are."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: redacted(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return value


def quoted(error: BaseException) -> str:
    """The message of a library's exception on one line, without secrets and control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    text = without_secrets(text)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def _pieces() -> set[str]:
    """The parts of all secrets that can be found again in a message.

    A message may show a value as Python writes it, with escapes for line breaks and characters beyond ASCII:
    the parts between those are the same in any notation.
    """
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)} | _known
    parts = {part for value in values for part in re.split(r"[^!-~]+", value)}
    return {part for part in parts if len(part) >= SHORTEST_SECRET}
