"""With what it is served: where a backend comes from, and how it spends memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from aimind.types.ranks import MemoryRule

from aimind.types.ggml import CACHE_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCache:
    """Where a backend keeps the code that it compiles for models, from one start to the next.

    Attributes:
        folder: that the backend is given.
        marks: a mark's path is this, and then a key.
        keys: that are marked: a start with it was ready, and what it compiled is there.
    """

    folder: str
    marks: str
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend of one version: on this machine, or one that can be brought there.

    Attributes:
        name, version: as in `--backend` and `--backend-version`.
        executable: what starts it (a program, or its Python), also before it is installed.
        installed: `False` where serving installs it first.
        size_bytes: on disk.
        problem: why it cannot be used although it is here, as a sentence.
        sees_devices: `False` for a build that was asked for the accelerators it can use, and named none.
        only: the one architecture that it can serve; empty for all that the backend can.
        missing: libraries without which it can use no accelerator, although it was built for them.
        configuration: the text of the file that it was installed with, which a command fills in.
        scripts: shell scripts that set its environment up, to be sourced in this order.
        flags: all that this version takes, as it says itself; `None` where it was not asked.
        architectures: all that this version can load, by its own table; `None` where that is not known.
        operations: those of its launcher's `OPERATIONS` that its compiled library for this processor has;
            `None` where that is not known.
        origin: whose build it is, where that is not the backend's own project by the package registry.
        assumed: nobody has looked: the plan is for another machine, and takes it as installed there.
        python: the version of its environment's Python.
        compile_cache: of compiled code; `None` where it compiles nothing, or aimind keeps none of it.
    """

    name: str
    version: str
    executable: str
    installed: bool = True
    size_bytes: int | None = None
    problem: str | None = None
    sees_devices: bool = True
    only: str = ""
    missing: tuple[str, ...] = ()
    configuration: str | None = field(default=None, repr=False)
    scripts: tuple[str, ...] = ()
    flags: frozenset[str] | None = field(default=None, repr=False)
    architectures: frozenset[str] | None = field(default=None, repr=False)
    operations: frozenset[str] | None = field(default=None, repr=False)
    origin: str = ""
    assumed: bool = False
    python: str = ""
    compile_cache: CompileCache | None = None


def bare(version: str) -> str:
    """A version by its number: tags are called `v1.0`, those of llama.cpp `b9000`."""
    return re.sub(r"^[vb](?=\d)", "", version)


def numbers(version: str) -> tuple[int, ...]:
    """Those in a version, by which one comes before another."""
    return tuple(map(int, re.findall(r"\d+", version)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """How a backend tells its flags, and how its parser reads them.

    Attributes:
        args: what makes the executable print them all.
        quick: it answers within a fraction of a second, so that planning may ask.
        abbreviates: it takes flags that are cut short, as Python's argparse does.
        dotted: what follows a flag after a dot is a key of the flag's JSON (`--config.key value`).
        also: flags that its help does not name.
        dropped: flags of other versions -> what to do instead, as half a sentence.
        dropped_since: the first version that has none of these.
        values: the name of the tables of values that its flags take, by version; empty where there are none.
    """

    args: tuple[str, ...]
    quick: bool = False
    abbreviates: bool = True
    dotted: bool = False
    also: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict, repr=False)
    dropped_since: str = ""
    values: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Where an installed backend lists the architectures that it can load.

    Attributes:
        kind: `table`: the keys of a dict; `classes`: the classes that the modules of a folder name;
            `exported`: the classes that modules of transformers export; `strings`: all texts in a library.
        files: patterns below the site-packages; of a program also below the folders of libraries.
        table: the name of the dict, or of the modules' variable.
        with_transformers: it can run those of transformers, too, whose attention may be replaced.
    """

    kind: Literal["table", "classes", "exported", "strings"]
    files: tuple[str, ...]
    table: str = ""
    with_transformers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What some versions of a package need beside what they ask for themselves.

    Attributes:
        reason: why, as half a sentence.
        versions: of the package that it is for, as PEP 440 writes it (`>=0.0.20,<0.1`); empty for all.
        overrides: requirements that replace what others ask for (uv's `--overrides`).
        build_constraints: likewise for building source distributions.
        removed: files, as patterns below the site-packages, that are taken away once it is installed.
    """

    reason: str
    versions: str = ""
    overrides: tuple[str, ...] = ()
    build_constraints: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A backend as Python distributions, installed into an environment of its own.

    Attributes:
        distribution: the one whose version is the backend's.
        version: the one that is installed when none is asked for.
        resolved: the day (`2026-11-20`) as of which the requirements of that version are chosen, so that they
            are the same whenever it is installed; empty for what is the newest then.
        requirements: installed beside it, as pip spells them.
        fixes: what it needs beside these, by version.
        variant: names builds of one version that differ (`cpu`); part of the environment's name.
        index: of packages, asked before the usual one, where this build is only there; `{version}` is filled
            in.
        local: the end of its version there that tells it from other builds (`cpu` of `0.32.0+cpu`).
        origin: whose build it is, where that is not the backend's own project by the package registry.
        torch: PyTorch's build, in the words of uv's `--torch-backend`; `None` where it is not needed.
        python: the version of Python that there are builds for, where it is just one.
        import_name: the module that must be importable for the environment to be good.
        size_bytes: what it takes on disk, where that was measured.
        only: the one architecture that it can serve; empty for all that the backend can.
        slim: another build of the same version that is smaller, since it serves one architecture alone.
        instead: other distributions of it, of the same variant: used only where they are chosen by name.
    """

    distribution: str
    version: str
    import_name: str
    resolved: str = ""
    requirements: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    variant: str = ""
    index: str | None = None
    local: str = ""
    origin: str = ""
    torch: str | None = None
    python: str = ""
    size_bytes: int | None = None
    only: str = ""
    slim: Package | None = None
    instead: tuple[Package, ...] = ()

    @property
    def builds(self) -> tuple[Package, ...]:
        """All of the version: the smaller one first."""
        return (self,) if self.slim is None else (self.slim, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A folder of its own that a program is installed in, instead of on PATH. Paths are relative to it.

    Attributes:
        variable: of the environment, names the folder.
        folder: where it is otherwise.
        versions: the folders of other versions beside it, as a pattern with `*`.
        program: what is started.
        version_file: says the version.
        configuration: the file that it was installed with, JSON.
        scripts: set its environment up, in this order; those that are not there are left out.
    """

    variable: str
    folder: str
    versions: str
    program: str
    version_file: str
    configuration: str
    scripts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A backend that the user installs: aimind only finds it, on PATH or in its home.

    Attributes:
        names: of its executable, the preferred one first.
        version_args: what makes it print its version.
        version_pattern: a regular expression whose first group is the version.
        home: where it is searched instead of on PATH; nothing is run then to learn its version.
        devices_args: what makes it name the accelerators that it can use.
        devices_pattern: a regular expression that one of its lines then matches if there are any.
        remedy: where it comes from, as a hint.
        page: its address, where nothing else but this program would do.
        title: what its project calls it.
        assumed_version: the one that a plan for another machine takes as installed there.
    """

    names: tuple[str, ...]
    version_args: tuple[str, ...]
    version_pattern: str
    remedy: str
    page: str = ""
    title: str = ""
    assumed_version: str = "unknown"
    devices_args: tuple[str, ...] = ()
    devices_pattern: str = ""
    home: Home | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredMemory:
    """How the llama.cpp family spends memory: whole layers on devices, the rest in RAM.

    Attributes:
        vendors: of the devices that it can use.
        slots: requests at once unless asked otherwise.
        shared_slots: several requests can share one cache (`kv_unified`).
        batch_size, ubatch_size: tokens per step, logical and physical, that the launcher sets.
        flash_attention: that the launcher sets.
        expert_offload: the experts of some layers can stay in RAM (llama.cpp's `--n-cpu-moe`).
        full_window_cache: sliding-window layers keep all tokens (llama.cpp's `swa_full`).
        mixed_inputs: a step may hold tokens and embeddings side by side, as in llama.cpp since late 2026.
        outputs_per_slot: logits that one step may ask for, a slot; `None` for every token of the batch.
        checkpoints: copies of windows and states that the server keeps a slot, unless asked otherwise.
        cache_dtypes: that the KV cache may have.
        process_bytes: of RAM, for the program, its libraries and its supervisor, beside all buffers.
        images: how it spends memory on models that paint, whose layers are not split; `None` if it has none.
    """

    vendors: tuple[str, ...] = ("nvidia", "amd", "apple")
    slots: int = 4
    shared_slots: bool = True
    batch_size: int = 2048
    ubatch_size: int = 512
    flash_attention: bool = True
    expert_offload: bool = False
    full_window_cache: bool = False
    mixed_inputs: bool = True
    outputs_per_slot: int | None = 1
    checkpoints: int = 32
    cache_dtypes: tuple[str, ...] = tuple(CACHE_TYPES)
    process_bytes: int = 80 << 20
    images: WholeMemory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedMemory:
    """How vLLM and its like spend memory: a share of every device, cut by tensor and pipeline parallelism.

    Attributes:
        rule: how the engine divides a device, and the limits of a step that it chooses itself.
        vendors: of the devices that it can use.
        utilization: the share of a device's total memory that is taken at most, unless asked otherwise.
        block_size: tokens per block of the cache on a device; cpu_block_size: in RAM.
        cache_dtypes: that the KV cache may have; ram_cache_dtypes: in RAM, where these are others.
        ram_cache_features: types of the cache that need instruction sets of the processor in RAM, and which.
        whole_prompts: a step computes whole prompts, so that it has room for the longest.
        powers_of_two: sizes of tensor parallelism are.
        pipelines: pipeline parallelism comes without being asked for.
        experts_over_groups: with data parallelism the experts are cut over the ranks of all groups.
        in_ram: it can do without a device.
    """

    rule: MemoryRule
    vendors: tuple[str, ...] = ("nvidia",)
    utilization: float = 0.9
    block_size: int = 16
    cpu_block_size: int = 128
    cache_dtypes: tuple[str, ...] = ("auto",)
    ram_cache_dtypes: tuple[str, ...] | None = None
    ram_cache_features: tuple[tuple[str, frozenset[str]], ...] = ()
    whole_prompts: bool = False
    powers_of_two: bool = False
    pipelines: bool = True
    experts_over_groups: bool = False
    in_ram: bool = True


@dataclass(frozen=True, slots=True)
class Need:
    """What models of a kind take in all, by experience: their weights, and what they compute with.

    Attributes:
        architecture: as in `Metadata`.
        weights_bytes: of the largest files that it is for; those that are larger have another need.
        device_bytes, ram_bytes: where the model is.
    """

    architecture: str
    weights_bytes: int
    device_bytes: int
    ram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeMemory:
    """How backends spend memory whose model is whole on one device, or in RAM.

    Attributes:
        vendors: of the devices that it can use.
        process_bytes: of RAM, for the program and its libraries, wherever the model is.
        slots: requests at once unless asked otherwise; one where they come one by one, whatever is asked.
        step_tokens: of a prompt that are computed at once; `None` for all of it.
        needs: of models whose layers are not known, the smallest of a kind first.
        needs_source: where these figures are from.
    """

    vendors: tuple[str, ...] = ("nvidia",)
    process_bytes: int = 1 << 30
    slots: int = 1
    step_tokens: int | None = None
    needs: tuple[Need, ...] = ()
    needs_source: str = ""


MemoryPolicy = LayeredMemory | PagedMemory | WholeMemory
