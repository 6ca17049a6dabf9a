"""llama-server's command line for xllamacpp: llama.cpp's HTTP server as a process of its own.

Run by the Python of xllamacpp's environment, where nothing of aimind is. The flags are llama-server's
(llama.cpp, common/arg.cpp) and set the same fields of `CommonParams`; one that is not given keeps
llama-server's default, except `--fit`, which would change what was asked for, and `--verbosity`: only level 4
tells the sizes of the buffers. The key that clients must send comes in `LLAMA_API_KEY`,
and `LLAMA_ARG_CORS_ORIGINS` is read as llama-server reads it.

Exit codes: 0 on TERM or INT once the model is loaded, 1 when the server cannot start (its log says why), 2 on
a flag that is not known. While the model is loading, which holds Python's lock, both signals kill at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import xllamacpp  # type: ignore[import-not-found]

SHARES = 128  # llama.cpp's largest number of devices; the list of their shares has this length


def one_of(meanings: Mapping[str, object]) -> Callable[[str], object]:
    """An argument's type: one of a few words."""

    def convert(text: str) -> object:
        if text not in meanings:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(meanings)}")
        return meanings[text]

    return convert


def members(enumeration: str) -> dict[str, object]:
    """The members of one of llama.cpp's enumerations by the words of the command line."""
    prefix = f"{enumeration.upper()}_"
    return {m.name.removeprefix(prefix).lower(): m for m in getattr(xllamacpp, enumeration)}


def layers(text: str) -> int:
    """The value of `--n-gpu-layers`."""
    return {"auto": -1, "all": -2}[text] if text in ("auto", "all") else int(text)


def shares(text: str) -> list[float]:
    """The value of `--tensor-split`."""
    given = [float(share) for share in text.replace("/", ",").split(",")]
    return given + [0.0] * (SHARES - len(given))


FLASH = members("llama_flash_attn_type")
KV_TYPE = one_of(members("ggml_type"))
VALUES: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "model.path": (str, ("--model", "-m")),
    "model_alias": (lambda text: set(text.split(",")), ("--alias", "-a")),
    "hostnames": (lambda text: text.split(","), ("--host",)),
    "port": (int, ("--port",)),
    "n_ctx": (int, ("--ctx-size", "-c")),
    "n_parallel": (int, ("--parallel", "-np")),
    "n_batch": (int, ("--batch-size", "-b")),
    "n_ubatch": (int, ("--ubatch-size", "-ub")),
    "flash_attn_type": (
        one_of({"auto": FLASH["auto"], "on": FLASH["enabled"], "off": FLASH["disabled"]}),
        ("--flash-attn", "-fa"),
    ),
    "cache_type_k": (KV_TYPE, ("--cache-type-k", "-ctk")),
    "cache_type_v": (KV_TYPE, ("--cache-type-v", "-ctv")),
    "n_gpu_layers": (layers, ("--n-gpu-layers", "--gpu-layers", "-ngl")),
    "split_mode": (one_of(members("llama_split_mode")), ("--split-mode", "-sm")),
    "tensor_split": (shares, ("--tensor-split", "-ts")),
    "main_gpu": (int, ("--main-gpu", "-mg")),
    "tensor_buft_overrides": (str, ("--override-tensor", "-ot")),
    "fit_params": (one_of({"on": True, "off": False}), ("--fit", "-fit")),
    "cache_ram_mib": (int, ("--cache-ram", "-cram")),
    "n_ctx_checkpoints": (int, ("--ctx-checkpoints", "--swa-checkpoints", "-ctxcp")),
    "mmproj.path": (str, ("--mmproj", "-mm")),
    "pooling_type": (one_of(members("llama_pooling_type")), ("--pooling",)),
    "cpuparams.n_threads": (int, ("--threads", "-t")),
    "cpuparams_batch.n_threads": (int, ("--threads-batch", "-tb")),
    "n_threads_http": (int, ("--threads-http",)),
    "n_predict": (int, ("--n-predict", "--predict", "-n")),
    "chat_template": (str, ("--chat-template",)),
    "cors_origins": (str, ("--cors-origins",)),
    "sampling.seed": (int, ("--seed", "-s")),
    "sampling.temp": (float, ("--temp", "--temperature")),
    "verbosity": (int, ("--verbosity", "--log-verbosity", "-lv")),
}
# llama.cpp's common/common.h: LLM_FFN_EXPS_REGEX, of one layer or of all.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
ALL = -1
SWITCHES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kv_unified": (("--kv-unified", "-kvu"), ("--no-kv-unified", "-no-kvu")),
    "embedding": (("--embedding", "--embeddings"), ()),
    "reranking": (("--reranking", "--rerank"), ()),
    "swa_full": (("--swa-full",), ()),
    "no_extra_bufts": (("--no-repack", "-nr"), ("--repack",)),
    "no_kv_offload": (("--no-kv-offload", "-nkvo"), ("--kv-offload", "-kvo")),
    "mmproj_use_gpu": (("--mmproj-offload",), ("--no-mmproj-offload",)),
    "use_jinja": (("--jinja",), ("--no-jinja",)),
    "warmup": (("--warmup",), ("--no-warmup",)),
    "cache_prompt": (("--cache-prompt",), ("--no-cache-prompt",)),
    "ctx_shift": (("--context-shift",), ("--no-context-shift",)),
    "endpoint_metrics": (("--metrics",), ()),
    "endpoint_slots": (("--slots",), ("--no-slots",)),
}


def parse(argv: list[str]) -> dict[str, object]:
    """The fields of CommonParams that the arguments set; exits with 2 where they cannot be understood."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s --model FILE [flags of llama-server]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for field, (kind, names) in VALUES.items():
        parser.add_argument(*names, dest=field, type=kind, metavar="VALUE", required=field == "model.path")
    for field, (on, off) in SWITCHES.items():
        parser.add_argument(*on, dest=field, action="store_true")
        if off:
            parser.add_argument(*off, dest=field, action="store_false")
    parser.add_argument("--n-cpu-moe", "-ncmoe", dest="experts", type=int, metavar="LAYERS")
    parser.add_argument("--cpu-moe", "-cmoe", dest="experts", action="store_const", const=ALL)
    given = {"n_parallel": -1, "fit_params": False, "verbosity": 4, **vars(parser.parse_args(_joined(argv)))}
    count = given.pop("experts", 0)
    experts = [EXPERTS] if count == ALL else [rf"blk\.{layer}{EXPERTS}" for layer in range(count)]
    if experts:
        asked = given.get("tensor_buft_overrides")
        given["tensor_buft_overrides"] = ",".join([asked, *experts] if asked else experts)
    if given.pop("reranking", False):
        given |= {"embedding": True, "pooling_type": members("llama_pooling_type")["rank"]}
    if key := os.environ.get("LLAMA_API_KEY"):
        given["api_keys"] = [key]
    if origins := os.environ.get("LLAMA_ARG_CORS_ORIGINS"):
        given.setdefault("cors_origins", origins)
    return given


def _joined(argv: list[str]) -> list[str]:
    """The same with values after `=`: as in llama.cpp, a flag's next word is its value, whatever it is."""
    takes_value = {name for _, names in VALUES.values() for name in names} | {"--n-cpu-moe", "-ncmoe"}
    words = iter(argv)
    joined = []
    for word in words:
        value = next(words, None) if word in takes_value else None
        joined.append(word if value is None else f"{word}={value}")
    return joined


def configured(argv: list[str]) -> Any:
    """llama.cpp's parameters as the arguments set them."""
    params = xllamacpp.CommonParams()
    for path, value in parse(argv).items():
        owner, _, field = path.rpartition(".")
        setattr(attrgetter(owner)(params) if owner else params, field, value)
    return params


def wait_for_signal() -> None:
    """Sleep until TERM or INT, whichever of llama.cpp's threads receives it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(reader, 1)


def main() -> int:
    """Serve until told to stop; returns only when the server could not start."""
    params = configured(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        _server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 1
    wait_for_signal()
    # Not by Server's destructor (2026.10): it waits 30 s for a stream in flight, and for ever when it comes
    # right after the start.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
