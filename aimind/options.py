"""What the options of a command ask for, and which of them decide which field of the request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aimind.types import Request

BEST = "best"  # --quant: the largest that fits
# Words of the names of variables that hold secrets: HF_TOKEN, AWS_SECRET_ACCESS_KEY, but not MAX_TOKENS.
SECRET_WORDS = frozenset("KEY APIKEY TOKEN SECRET PASSWORD PASSWD PASSPHRASE CREDENTIAL CREDENTIALS".split())
# The names of systemd's credentials.
API_KEY_CREDENTIAL, TOKEN_CREDENTIAL = "aimind.api-key", "aimind.hf-token"
# Options that are called otherwise than the field of the request that they decide.
_FIELDS = {
    "context": "max_model_len",
    "contexts": "max_model_len",
    "parallel": "max_num_seqs",
    "device": "devices",
    "tensor_parallel": "tensor_parallel_size",
    "kv_cache_type": "kv_cache_dtype",
    "no_cpu_offload": "cpu_offload",
    "no_auto_parsers": "auto_parsers",
    "host": "address",
    "served_model_name": "served_name",
    "mmproj": "projector",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options of `serve` and `plan` ask for.

    Attributes:
        text: the model as it was typed; revision, quantization: given besides it.
        prefer_quality: the largest quantization that fits (`--quant best`).
        projector: the file of the repository that is the projector, or `none`; `None`: not decided.
        offline: nothing may be downloaded.
        token_file: the file with the hub's token; `None`: where the hub's client looks for it.
        request: the rest.
        warnings: what the user should know, as sentences.
    """

    text: str
    revision: str | None
    quantization: str | None
    prefer_quality: bool
    projector: str | None
    offline: bool
    token_file: Path | None
    request: Request
    warnings: tuple[str, ...] = ()


def is_secret(variable: str) -> bool:
    """Whether a variable of this name probably holds a secret."""
    return not SECRET_WORDS.isdisjoint(variable.upper().split("_"))


def request_field(option: str) -> str | None:
    """The field of a `Request` that an option with a parameter of this name decides, if it is one."""
    name = _FIELDS.get(option, option)
    return name if name in Request.__dataclass_fields__ else None
