"""What xllamacpp's llama.cpp would reserve with llama-server's flags: bytes, as JSON, nothing allocated.

Run by the Python of xllamacpp's environment with the arguments of `xllamacpp_server.py`, which reads them.
The model is opened in llama.cpp's `no_alloc` mode, as llama-fit-params does (common/fit.cpp), for which the
file's header is enough; the rest of it may be a hole. xllamacpp has no function for that, so its library is
called directly: llama.cpp's functions turn the `common_params` that a `CommonParams` object holds into their
own parameters, so that no layout of these is known here.

Exit codes: 0 with JSON on standard output, 1 when llama.cpp cannot load the model or this xllamacpp differs,
2 on a flag that is not known.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import xllamacpp  # type: ignore[import-not-found]
from xllamacpp_server import configured  # type: ignore[import-not-found]

POINTER = ctypes.c_void_p
# Where CPython's object ends and the C++ one begins; its first member is n_predict.
PARAMS_OFFSET = 16
CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


class Structure(ctypes.Structure):
    """Any structure of llama.cpp's that is passed by value: memory, enough of it."""

    _fields_ = [("content", ctypes.c_char * 2048)]


class Library:
    """Functions of llama.cpp, by their names in the library."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)

    def call(self, name: str, result: object, *arguments: object) -> Any:
        """One function; integers are pointers."""
        function = getattr(self.library, name)
        function.restype = result
        function.argtypes = [POINTER if isinstance(a, int) else type(a) for a in arguments]
        return function(*arguments)


def breakdown(library: Library, params: object, path: bytes) -> dict[str, list[int]]:
    """Bytes of model, context and compute buffers by device; those of the CPU are `host`."""
    address = id(params) + PARAMS_OFFSET
    model_params = library.call("_Z28common_model_params_to_llamaR13common_params", Structure, address)
    context_params = library.call("_Z30common_context_params_to_llamaRK13common_params", Structure, address)
    model = library.call("llama_model_load_from_file", POINTER, ctypes.c_char_p(path), model_params)
    context = model and library.call("llama_init_from_model", POINTER, model, context_params)
    if not context:
        raise RuntimeError("llama.cpp cannot open this model")
    found = library.call("_Z26llama_get_memory_breakdownPK13llama_context", Structure, context)
    places: dict[str, list[int]] = {}
    for buffer_type, sizes in entries(ctypes.addressof(found)):
        sums = places.setdefault(place(library, buffer_type), [0, 0, 0])
        sums[:] = [old + new for old, new in zip(sums, sizes, strict=True)]
    return places


def place(library: Library, buffer_type: int) -> str:
    """The device's name, or `host`."""
    device = library.call("ggml_backend_buft_get_device", POINTER, buffer_type)
    in_ram = library.call("ggml_backend_buft_is_host", ctypes.c_bool, buffer_type)
    if in_ram or not device or library.call("ggml_backend_dev_type", ctypes.c_int, device) == CPU:
        return "host"
    name: bytes = library.call("ggml_backend_dev_name", ctypes.c_char_p, device)
    return name.decode()


def entries(address: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """The buffer types and sizes of a `std::map`, a tree of libstdc++'s: its root lies 16 bytes in.

    Of a node: colour, parent, left and right, 8 bytes each, then the key and the value.
    """

    def word(at: int) -> int:
        return ctypes.c_size_t.from_address(at).value

    nodes = [word(address + 16)]
    while nodes:
        node = nodes.pop()
        if node:
            nodes += [word(node + 16), word(node + 24)]
            yield word(node + 32), (word(node + 40), word(node + 48), word(node + 56))


def main() -> int:
    """Print the bytes."""
    params = configured(sys.argv[1:])
    mark = params.n_predict = 0x1A2B3C4D
    if ctypes.c_int32.from_address(id(params) + PARAMS_OFFSET).value != mark:
        print("error: this xllamacpp lays its parameters out in another way", file=sys.stderr)  # noqa: T201
        return 1
    params.no_alloc = True
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    # As llama-server sets it (tools/server/server-context.cpp, server_output_limits).
    params.n_outputs_max = params.n_batch if params.embedding else min(params.n_batch, params.n_parallel)
    try:
        places = breakdown(Library(), params, os.fsencode(params.model.path))
    except (AttributeError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(places), flush=True)  # noqa: T201
    # Not by the objects' destructors: the program is done.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
