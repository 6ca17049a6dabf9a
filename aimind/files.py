"""Which files of a repository serving needs: one quantization, no duplicates, nothing beside the point.

For GGUF: one model with all its parts, and the best projector (mmproj) beside it. Otherwise: the safetensors
(pickled `.bin` only where there are none), and the small files around them: configuration, tokenizer,
templates, code. Decided by names, and by the index of the safetensors where there is one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.types import INDEX_NAME, File, Model, split_of

# When no quantization is asked for: the usual compromise first, then its neighbours at about four bits, then
# more bits, then fewer; a UD- (Unsloth dynamic) one behind its plain twin; what is not in the list last.
PREFERRED = tuple(
    "Q4_K_M Q4_K_XL Q4_K_L MXFP4 MXFP4_MOE NVFP4 Q4_K_S Q4_K IQ4_XS IQ4_NL Q4_1 Q4_0 "
    "Q5_K_M Q5_K_XL Q5_K_L Q5_K_S Q5_K Q5_1 Q5_0 Q6_K Q6_K_XL Q6_K_L Q8_0 Q8_K_XL BF16 F16 F32 "
    "Q3_K_XL Q3_K_L Q3_K_M Q3_K_S Q3_K IQ3_M IQ3_S IQ3_XS IQ3_XXS Q2_K_XL Q2_K_L Q2_K Q2_K_S "
    "IQ2_M IQ2_S IQ2_XS IQ2_XXS TQ2_0 IQ1_M IQ1_S TQ1_0".split()
)
PROJECTORS = ("F32", "BF16", "F16", "Q8_0")

_QUANTIZATION = re.compile(
    r"(?<![A-Z0-9])(?:UD-)?(?:I?Q[1-8](?:_(?:[01KSML]|NL|X{1,2}S|XL|4_4|4_8|8_8)(?![A-Z0-9]))+"
    r"|TQ[12]_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4)(?![A-Z0-9])"
)
_MODULE = re.compile(r"\d+_\w+")  # of Sentence Transformers: 1_Pooling, 2_Dense
# Words of the names of small models that only propose tokens to a large one, and of their folders.
_DRAFTS = frozenset({"assistant", "dflash", "draft", "drafter", "dspark", "eagle", "eagle3", "mtp"})
_SKIPPED_FOLDERS = frozenset("original onnx openvino coreml tf flax metal mlx gguf runs".split())
_SUPPORT = frozenset(".json .jinja .txt .model .tiktoken .py .yaml .yml .bpe .vocab .spm .npy".split())
_NO_SUPPORT = frozenset({"trainer_state.json", "requirements.txt", "license.txt"})
_OTHER = frozenset(".onnx .h5 .msgpack .gguf .bin .pth .ckpt .tflite .npz".split())
_NEVER = frozenset(
    ".md .png .jpg .jpeg .gif .webp .mp4 .mp3 .pdf .msgpack .h5 .ot .tflite .mlmodel".split()  # and dot files
)


def choose(model: Model, *, projector: str | None = None) -> Model:
    """The same model with only the files that serving needs, if memory does not matter: the first candidate.

    Raises:
        ModelNotFoundError, UnsupportedError: see `candidates`.
    """
    return candidates(model, projector=projector)[0]


def candidates(
    model: Model, *, projector: str | None = None, indexed: frozenset[str] | None = None
) -> tuple[Model, ...]:
    """The ways to narrow a model to what serving needs: one, or a GGUF model's quantizations.

    The preferred one is the first, then the others by size, the largest first.

    Args:
        model: all files of a repository.
        projector: the path of the vision or audio tower's file; `none` for none; else the best is chosen.
        indexed: the files that `INDEX_NAME` names, where it was read.

    Raises:
        ModelNotFoundError: a file or quantization asked for is not there, or a part of it is missing.
        UnsupportedError: there is nothing that can be served.
    """
    reference, files = model.reference, model.files
    asked = reference.quantization and _usual(reference.quantization)
    if reference.file is not None:
        chosen = [_of_file(model, reference.file, projector)]
    elif asked not in {None, "SAFETENSORS"} or (asked is None and _models(files) and not _safe(files)):
        models = _of_quantization(model, None if asked == "GGUF" else asked)
        chosen = [_with_projector(model, one, projector) for one in models]
    else:
        chosen = [_of_folder(model, indexed)]
    return tuple(
        replace(model, files=tuple(file for file in files if file in wanted)) for wanted in map(set, chosen)
    )


def siblings(model: Model, chosen: Model, *, projector: str | None = None) -> tuple[Model, ...]:
    """The other quantizations of a model of which one was named, the largest first."""
    found = _models(model.files)
    first = next((one for one in found if set(one.files) & set(chosen.files)), None)
    if first is None:
        return ()
    return tuple(
        replace(model, files=tuple(_with_projector(model, one, projector))) for one in _others(found, first)
    )


def quantization(path: str) -> str | None:
    """The quantization in a file's name, or else in that of its folder, in upper case: `UD-Q2_K_XL`."""
    for name in (PurePosixPath(path).name, *reversed(PurePosixPath(path).parts[:-1])):
        found = _QUANTIZATION.findall(name.upper())
        if found:
            return _usual(found[-1])
    return None


def _usual(quantization: str) -> str:
    return {"FP16": "F16", "FP32": "F32"}.get(quantization, quantization)


# ── GGUF ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Gguf:
    """One model in GGUF: its file, or all the parts of it. `words`: of its name, without the quantization."""

    stem: str
    quantization: str | None
    words: frozenset[str]
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        """Total size of all parts."""
        return sum(file.size_bytes for file in self.files)

    @property
    def is_drafter(self) -> bool:
        """Whether its name, or that of a folder above it, is one of a drafter's."""
        folders = PurePosixPath(self.files[0].path).parts[:-1]
        words = self.words.union(*(_words(folder) for folder in folders))
        return bool(words & _DRAFTS)


def _of_file(model: Model, path: str, projector: str | None) -> Sequence[File]:
    file = next((file for file in model.files if file.path == path), None)
    if file is None:
        raise ModelNotFoundError(f"{_name(model)} has no file {path}", hint=_available(model))
    if file.is_gguf:
        return _with_projector(model, _gguf(_siblings(file, model.files)), projector)
    if not path.lower().endswith((".safetensors", ".bin", ".pt", ".pth")):
        raise UnsupportedError(
            f"{path} contains no weights",
            hint="Name a .gguf file, or the folder that holds config.json and the weights.",
        )
    return [*_complete(_siblings(file, model.files)), *_support(model.files)]


def _of_quantization(model: Model, asked: str | None) -> Sequence[_Gguf]:
    """The one asked for; else the preferred one, then the same model's others by size, the largest first."""
    found = _models(model.files)
    if asked is not None:
        found = (
            [one for one in found if one.quantization == asked]
            or [one for one in found if one.quantization == f"UD-{asked}"]
            or [one for one in found if one.quantization is None and _has_word(one.stem, asked)]
        )
    if not found:
        what = f"no GGUF file of the quantization {asked}" if asked else "no GGUF file"
        raise ModelNotFoundError(f"{_name(model)} has {what}", hint=_available(model))
    best = min(map(_rank, found))
    preferred = [one for one in found if _rank(one) == best]
    if len(preferred) > 1:
        names = ", ".join(one.files[0].path for one in preferred)
        raise ModelNotFoundError(
            f"{_name(model)} has more than one matching model: {names}", hint="Name one of these files."
        )
    first = preferred[0]
    return [first, *_others(found, first)] if asked is None else [first]


def _others(found: Sequence[_Gguf], first: _Gguf) -> list[_Gguf]:
    """The same model's other quantizations of which no part is missing, the largest first."""
    others = [one for one in found if one is not first and one.words == first.words and _is_complete(one)]
    return sorted(others, key=lambda one: (-one.size_bytes, one.stem))


def _is_complete(one: _Gguf) -> bool:
    split = split_of(one.files[0].path)
    return split is None or len(one.files) == split.count


def _models(files: Iterable[File]) -> list[_Gguf]:
    """The models in GGUF: no projectors, no importance matrices, drafts only where there is nothing else."""
    groups: dict[str, list[File]] = {}
    for file in files:
        if file.is_gguf:
            groups.setdefault(_stem(file.path), []).append(file)
    models = [_gguf(parts) for parts in groups.values()]
    models = [
        one
        for one in models
        if not one.files[0].is_projector and not (one.quantization is None and _is_matrix(one.words))
    ]
    largest = max(models, key=lambda one: one.size_bytes, default=None)
    if largest is None or largest.is_drafter:
        return models
    return [one for one in models if not one.is_drafter]


def _gguf(parts: Sequence[File]) -> _Gguf:
    path = parts[0].path
    return _Gguf(_stem(path), quantization(path), _words(path), tuple(parts))


def _is_matrix(words: frozenset[str]) -> bool:
    return any(word.startswith("imatrix") for word in words)


def _stem(path: str) -> str:
    split = split_of(path)
    return split.stem if split is not None else path


def _words(path: str) -> frozenset[str]:
    """What a file's name says of the model, without its quantization, number of the part, and suffix."""
    name = PurePosixPath(_stem(path)).name.upper().removesuffix(".GGUF")
    return frozenset(re.findall(r"[^\W_]+", _QUANTIZATION.sub(" ", name).lower()))


def _has_word(stem: str, word: str) -> bool:
    return re.search(rf"(?<![A-Z0-9]){re.escape(word)}(?![A-Z0-9_])", stem.upper()) is not None


def _rank(one: _Gguf) -> tuple[int, str]:
    return _order(one.quantization or "")


def _with_projector(model: Model, chosen: _Gguf, asked: str | None) -> list[File]:
    """The model and its projector: the one asked for, one of the same name, or one of no name.

    A repository holds one model, so any projector there is its own. A local folder may hold many.
    """
    projectors = [file for file in model.files if file.is_projector]
    files = _complete(chosen.files)
    if asked == "none":
        return files
    if asked is not None:
        return [*files, _asked_projector(model, projectors, asked)]
    own: list[File] = []
    general: list[File] = []
    for file in projectors:
        words = _words(file.path) - {"mmproj", "model"}
        if words and words <= chosen.words:
            own.append(file)
        elif not words:
            general.append(file)
    alone = model.reference.source != "local" or len({one.words for one in _models(model.files)}) == 1
    fitting = own or (alone and (general or projectors)) or []
    if not fitting or any(file in fitting for file in files):
        return files
    return [*files, min(fitting, key=_projector_rank)]


def _asked_projector(model: Model, projectors: Sequence[File], asked: str) -> File:
    found = next((file for file in projectors if file.path == asked.removeprefix("./")), None)
    if found is not None:
        return found
    names = ", ".join(file.path for file in projectors)
    raise ModelNotFoundError(
        f"{_name(model)} has no projector {asked}",
        hint=f"use --mmproj with one of {names}" if names else "omit --mmproj: the model has no projector",
    )


def _projector_rank(file: File) -> tuple[int, str]:
    precision = quantization(file.path)
    return (PROJECTORS.index(precision) if precision in PROJECTORS else len(PROJECTORS), file.path)


# ── Everything else ────────────────────────────────────────────────────────────────────────────────────────


def _of_folder(model: Model, indexed: frozenset[str] | None) -> Sequence[File]:
    files = [file for file in model.files if not _is_skipped(file.path)]
    names = {file.path for file in files}
    if any(PurePosixPath(name).match("cosyvoice*.yaml") for name in names):
        return _all_but_duplicates(files)
    weights = _weights(files, indexed)
    if weights:
        return [*weights, *_support_of(weights, files)]
    if "model.bin" in names or any(name.endswith((".pt", ".pth")) for name in names):
        return _all_but_duplicates(files)
    raise _nothing(model, names)


def _safe(files: Iterable[File]) -> bool:
    return any(file.path.endswith(".safetensors") for file in _weights(files, None))


def _weights(files: Iterable[File], indexed: frozenset[str] | None) -> list[File]:
    """The weights of the folder itself, and those of Sentence Transformers' modules below it.

    Other folders below hold the same model again: in another precision (`fp8`), or for another program.
    """
    root: list[File] = []
    modules: dict[str, list[File]] = {}
    for file in files:
        folder = str(PurePosixPath(file.path).parent)
        if folder == ".":
            root.append(file)
        elif _MODULE.fullmatch(folder):
            modules.setdefault(folder, []).append(file)
    found = _indexed_weights(root, indexed) if indexed else _weights_of_one_folder(root)
    if not found:
        return []
    return found + [file for module in modules.values() for file in _weights_of_one_folder(module)]


def _indexed_weights(files: Sequence[File], indexed: frozenset[str]) -> list[File]:
    """The files that the index names, whatever they are called.

    Raises:
        ModelNotFoundError: one of them is missing.
    """
    found = [file for file in files if file.path in indexed]
    missing = sorted(indexed.difference(file.path for file in found))
    if missing:
        raise ModelNotFoundError(
            f"{len(missing)} of the {len(indexed)} files in {INDEX_NAME} are missing; "
            f"the first one is {missing[0][:100]!r}",
            hint="Download the missing files into the same folder.",
        )
    return sorted(found, key=lambda file: file.path)


def _weights_of_one_folder(files: Sequence[File]) -> list[File]:
    """Its safetensors without copies in another layout or precision; pickles where there are none."""
    names = {PurePosixPath(file.path).name: file for file in files}
    safetensors = {name: file for name, file in names.items() if name.endswith(".safetensors")}
    shards = [file for name, file in safetensors.items() if _is_shard(name, "model")]
    if shards:
        # An index that was not read may name files that are no numbered parts: mtp.safetensors.
        others = [file for name, file in safetensors.items() if INDEX_NAME in names and _may_be_indexed(name)]
        return _complete([*shards, *others])
    if "model.safetensors" in safetensors:
        # Beside it, `model.fp16.safetensors` and its like are the same weights again.
        safetensors = {
            name: file
            for name, file in safetensors.items()
            if name == "model.safetensors" or not name.startswith("model.")
        }
    whole = {name: file for name, file in safetensors.items() if not name.startswith("adapter_")}
    plain = {name: file for name, file in whole.items() if not name.startswith("consolidated")}
    pickles = {name: file for name, file in names.items() if re.fullmatch(r"pytorch_model.*\.bin", name)}
    return _complete(list((plain or whole or pickles).values()))


def _may_be_indexed(name: str) -> bool:
    return split_of(name) is None and not name.startswith(("adapter_", "consolidated", "model."))


def _is_shard(name: str, stem: str) -> bool:
    split = split_of(name)
    return split is not None and split.stem == stem


def _support_of(weights: Sequence[File], files: Iterable[File]) -> list[File]:
    """What belongs to these weights: without the index of Mistral's copies where they were left out."""
    if any(file.path.startswith("consolidated") for file in weights):
        return _support(files)
    return [file for file in _support(files) if not file.path.startswith("consolidated")]


def _support(files: Iterable[File]) -> list[File]:
    """Configuration, tokenizer, templates, code: small, and which are read is the backend's affair."""
    support = []
    for file in files:
        path = PurePosixPath(file.path.lower())
        if path.suffix in _SUPPORT and path.name not in _NO_SUPPORT and not _is_skipped(file.path):
            support.append(file)
    return support


def _all_but_duplicates(files: Iterable[File]) -> list[File]:
    """For models made of many kinds of files (speech): all but text, pictures, another framework's copy."""
    return [
        file
        for file in files
        if PurePosixPath(file.path).suffix.lower() not in _NEVER
        and not PurePosixPath(file.path).name.startswith(".")
        and PurePosixPath(file.path).name != "requirements.txt"  # FunASR would install what it lists
    ]


def _is_skipped(path: str) -> bool:
    return any(
        part.lower() in _SKIPPED_FOLDERS or part.startswith((".", "checkpoint-"))
        for part in PurePosixPath(path).parts[:-1]
    )


# ── Parts and sentences ────────────────────────────────────────────────────────────────────────────────────


def _siblings(file: File, files: Iterable[File]) -> list[File]:
    stem = _stem(file.path)
    return [other for other in files if _stem(other.path) == stem]


def _complete(files: Sequence[File]) -> list[File]:
    """The same files, in order, once no part is missing.

    Raises:
        ModelNotFoundError: one is.
    """
    parts: dict[tuple[str, int], set[int]] = {}
    for file in files:
        split = split_of(file.path)
        if split is not None:
            parts.setdefault((split.stem, split.count), set()).add(split.number)
    for (stem, count), found in parts.items():
        missing = count - len(found)
        if missing > 0:
            first = next(number for number in itertools.count(1) if number not in found)
            raise ModelNotFoundError(
                f"{missing} of the {count} parts of {stem} are missing; the first one is part {first}",
                hint="Download the missing parts into the same folder.",
            )
    return sorted(files, key=lambda file: file.path)


def _name(model: Model) -> str:
    return model.reference.name


def _available(model: Model) -> str:
    found = sorted({one.quantization or one.stem for one in _models(model.files)}, key=_order)
    if found:
        return f"It has {', '.join(found)}."
    if _weights(model.files, None):
        return "It has no GGUF files: omit the quantization to serve its safetensors or PyTorch weights."
    return "It has no weights that can be served."


def _order(name: str) -> tuple[int, str]:
    plain = name.removeprefix("UD-")
    return (PREFERRED.index(plain) if plain in PREFERRED else len(PREFERRED), name)


def _is_safetensors(file: File) -> bool:
    return file.path.endswith(".safetensors")


def _nothing(model: Model, names: set[str]) -> UnsupportedError:
    name = _name(model)
    hint = "Name a repository or folder with GGUF files, or with config.json and safetensors."
    if "model_index.json" in names:
        return UnsupportedError(f"{name} is an image pipeline, which aimind cannot serve", hint=hint)
    if any(PurePosixPath(path).name.startswith("adapter_model.") for path in names):
        return UnsupportedError(f"{name} is a LoRA adapter, not a whole model", hint="Serve its base model.")
    folders = {str(PurePosixPath(file.path).parent) for file in model.files if _is_safetensors(file)} - {"."}
    if folders:
        first = ", ".join(folder[:100] for folder in sorted(folders)[:3])
        more = ", …" if len(folders) > 3 else ""
        return UnsupportedError(
            f"{name} has weights only in its subfolders: {first}{more}", hint="Name one of these folders."
        )
    kinds = sorted({PurePosixPath(file.path).suffix for file in model.files} & _OTHER)
    if kinds:
        return UnsupportedError(
            f"{name} has only {', '.join(kinds)} files, which aimind cannot serve", hint=hint
        )
    return UnsupportedError(f"{name} has no weights", hint=hint)
