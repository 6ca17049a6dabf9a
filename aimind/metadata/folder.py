"""The files of a model that come as a folder, found by name."""

from __future__ import annotations

from collections.abc import Callable
from posixpath import basename, dirname

from aimind.errors import AimindError, MetadataError, UnsupportedError
from aimind.metadata.config import LARGEST_CONFIG_BYTES, Config, read_json
from aimind.types import File, Model, Reader

OpenFile = Callable[[File], Reader]

_PICKLES = (".bin", ".pt", ".pth")
# Not weights, in spite of their names.
_STATE = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth")


class Folder:
    """The files of a model, by name, at the highest level that describes it; parts may lie below."""

    def __init__(self, model: Model, open_file: OpenFile) -> None:
        self.model = model
        self.open_file = open_file
        described = [file.path for file in model.files if file.path.endswith((".json", ".yaml"))]
        self.root = dirname(min(described, key=lambda path: (path.count("/"), path), default=""))
        self.files = {basename(file.path): file for file in model.files if dirname(file.path) == self.root}
        self.names = frozenset(self.files)
        self._known: dict[str, Config] = {}

    def json(self, name: str) -> Config | None:
        """A JSON file beside config.json, if it is there."""
        file = self.files.get(name)
        if file is None:
            return None
        if name not in self._known:
            self._known[name] = Config(read_json(self.open_file(file), file.path), file.path)
        return self._known[name]

    def text(self, name: str) -> bytes:
        """A file of text that is there, up to the size that a configuration may have."""
        reader = self.open_file(self.files[name])
        return reader.read(0, min(reader.size_bytes, LARGEST_CONFIG_BYTES))

    def config(self) -> Config:
        """config.json.

        Raises:
            MetadataError: there is none, or it is damaged.
            UnsupportedError: the model is described in Mistral's own format alone.
        """
        config = self.json("config.json")
        if config is None:
            raise self._without_config()
        return config

    def _without_config(self) -> AimindError:
        name = self.model.reference.name
        if "adapter_config.json" in self.names:
            return MetadataError(
                f"{name} is a LoRA adapter, not a model",
                hint="Serve its base model, and pass the adapter to the backend.",
            )
        if "params.json" in self.names:
            return UnsupportedError(
                f"{name} is in Mistral's own format (params.json, no config.json), which aimind cannot read",
                hint="Serve the model from a repository in Hugging Face's format, or in GGUF.",
            )
        return MetadataError(
            f"{name} has neither GGUF files nor a config.json",
            hint="aimind serves GGUF files, and folders with config.json and *.safetensors.",
        )

    def pickles(self) -> list[File]:
        """PyTorch's own files of weights."""
        found = [
            file
            for name, file in sorted(self.files.items())
            if name.endswith(_PICKLES) and name not in _STATE
        ]
        own = [file for file in found if basename(file.path).startswith("pytorch_model")]
        return own or found
