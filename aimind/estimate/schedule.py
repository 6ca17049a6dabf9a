"""Which device runs each operation, what is copied between them, and how much memory all that takes.

By the rules of `ggml_backend_sched_split_graph` (ggml/src/ggml-backend.cpp) and of the allocator in
ggml/src/ggml-alloc.c, ggml 0.25.3. Devices come first, the host is last.
"""

from __future__ import annotations

from dataclasses import dataclass

from aimind.estimate.graph import IN_PLACE, VIEW, Graph, Node

DEVICE_ALIGNMENT = 128
HOST_ALIGNMENT = 32
# From so many rows on, an operation on a weight in host memory runs on a device
# (`op_offload_min_batch_size`).
OFFLOAD_BATCH = 32
# `GGML_SCHED_MAX_COPIES`: of every input, so that devices can work on several batches at once.
PIPELINE_COPIES = 4
_ENDLESS = 1 << 62

_Step = tuple[Node, int]  # a node and the place of its memory


@dataclass(slots=True)
class _Split:
    """Operations that run in one go at one place, and the tensors that are copied there before."""

    place: int
    inputs: list[Node]
    body: list[Node]


def buffer_sizes(graph: Graph, *, devices: int, pipeline: bool = False) -> tuple[int, ...]:
    """Bytes of the compute buffer of each device, and last of the host.

    Args:
        graph: whose weights, caches and nothing else have a place yet.
        devices: their number.
        pipeline: every input is kept several times, as llama.cpp does with all layers on several devices.
    """
    _Assignment(graph, devices).run()
    copies = PIPELINE_COPIES if pipeline else 1
    splits = _split(graph, devices, copies)
    allocator = _Allocator(devices)
    allocator.run(_steps(graph, splits, devices), _first(graph, splits, copies))
    return tuple(arena.peak for arena in allocator.arenas)


class _Assignment:
    """Gives every node a place: weights and caches decide, their neighbours follow."""

    def __init__(self, graph: Graph, host: int) -> None:
        self.graph, self.host = graph, host

    def run(self) -> None:
        work = [node for node in self.graph.nodes if node.op != VIEW]
        for leaf in self.graph.leaves:
            if leaf.is_input:
                leaf.place = self.host
        for node in work:
            node.place = self._decided(node)
        if self.host:
            self._spread(work, devices_only=True)
            self._spread(work[::-1], devices_only=True)
        self._spread(work, devices_only=False)
        self._spread(work[::-1], devices_only=False)
        for node in work:
            if node.place < 0:
                node.place = self._most_sources(node)
        self._follow()

    def _decided(self, node: Node) -> int:
        """The place that a node's own memory or its weights demand; -1 if none."""
        if node.root is not None and node.root.stored:
            return self._runner(node, node.root)
        if node.op not in ("rope", "flash_attn"):
            for source in node.sources:
                if source.weight:
                    place = self._runner(node, source)
                    if place == self.host and node.batch >= OFFLOAD_BATCH:
                        return next((d for d in range(self.host) if self._supports(node, d)), place)
                    return place
        return -1

    def _runner(self, node: Node, memory: Node) -> int:
        return memory.place if self._supports(node, memory.place) else self.host

    def _supports(self, node: Node, place: int) -> bool:
        if place == self.host:
            return True
        if node.host_only:
            return False
        return all(not s.stored or s.place in (place, self.host) for s in node.sources)

    def _spread(self, work: list[Node], *, devices_only: bool) -> None:
        current = -1
        for node in work:
            if node.place >= 0:
                current = -1 if devices_only and node.place == self.host else node.place
            elif current >= 0 and self._supports(node, current):
                node.place = current

    def _most_sources(self, node: Node) -> int:
        best, most = self.host, -1
        for place in range(self.host + 1):
            if self._supports(node, place):
                count = sum((s.root or s).place == place for s in node.sources)
                if count > most:
                    best, most = place, count
        return best

    def _follow(self) -> None:
        """Views live where their tensor does, whatever else is left where it is read."""
        for node in self.graph.nodes:
            if node.root is not None and node.place < 0:
                node.place = node.root.place
            for source in node.sources:
                if source.place < 0:
                    source.place = source.root.place if source.root is not None else node.place


def _split(graph: Graph, host: int, copies: int) -> list[_Split]:
    """Cut the graph where the place changes, and let every node read copies of what is elsewhere."""
    split = _Split(next((node.place for node in graph.nodes if node.op != VIEW), host), [], [])
    splits = [split]
    for node in graph.nodes:
        if node.op != VIEW:
            place = node.place
            if place != split.place or (split.inputs and _reads_far_weight(node)):
                split = _Split(place, [], [])
                splits.append(split)
            for index, source in enumerate(node.sources):
                if source.place == place:
                    continue
                if place not in source.copies:
                    source.copies[place] = [_copy(source, place, pinned=copies > 1) for _ in range(copies)]
                    split.inputs.append(source)
                node.sources[index] = source.copies[place][0]
        split.body.append(node)
    return splits


def _reads_far_weight(node: Node) -> bool:
    return any(source.weight and source.place != node.place for source in node.sources)


def _copy(source: Node, place: int, *, pinned: bool) -> Node:
    copy = Node("", source.shape, item_bytes=source.item_bytes)
    copy.size_bytes, copy.device_bytes, copy.layout = source.size_bytes, source.device_bytes, source.layout
    copy.place = place
    copy.is_input = copy.is_output = pinned
    return copy


def _steps(graph: Graph, splits: list[_Split], host: int) -> list[_Step]:
    """All nodes in order, with the copies before each split, and marks up to which a tensor must be kept."""
    kept: dict[Node, list[Node]] = {}
    for start, until, tensors in graph.kept:
        if start.place != host:
            held = kept.setdefault(until, [])
            held += [tensor for tensor in tensors if tensor not in held]
    steps: list[_Step] = []
    for split in splits:
        for source in split.inputs:
            steps += (_mark([source]), source.place), (source.copies[split.place][0], split.place)
        for node in split.body:
            steps.append((node, node.place))
            if node in kept:
                steps.append((_mark(kept[node]), node.place))
    return steps


def _mark(tensors: list[Node]) -> Node:
    mark = Node("", (0,), tuple(tensors))
    mark.root = tensors[0]
    return mark


def _first(graph: Graph, splits: list[_Split], copies: int) -> list[_Step]:
    """What is allocated before all else: the inputs, and with a pipeline every copy of them."""
    first: list[_Step] = []
    if copies > 1:
        for leaf in graph.leaves:
            if leaf.is_input:
                leaf.is_output = True
                first += [(leaf, leaf.place)]
                first += [(_copy(leaf, leaf.place, pinned=True), leaf.place) for _ in range(copies - 1)]
        for split in splits:
            for source in split.inputs:
                first += [(copy, split.place) for copy in source.copies[split.place]]
    return first + [(leaf, leaf.place) for leaf in graph.leaves]


class _Arena:
    """One buffer: `ggml_dyn_tallocr`, the smallest hole that fits, else the end."""

    __slots__ = ("alignment", "free", "peak")

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.free = [[0, _ENDLESS]]
        self.peak = 0

    def take(self, size: int) -> int:
        size += -size % self.alignment
        free = self.free
        best, best_size = -1, _ENDLESS
        for index in range(len(free) - 1):
            if size <= free[index][1] <= best_size:
                best, best_size = index, free[index][1]
        block = free[best]
        address = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del free[best]
        self.peak = max(self.peak, address + size)
        return address

    def give(self, address: int, size: int) -> None:
        size += -size % self.alignment
        free = self.free
        for index, block in enumerate(free):
            if block[0] + block[1] == address:
                block[1] += size
                if index + 1 < len(free) and block[0] + block[1] == free[index + 1][0]:
                    block[1] += free.pop(index + 1)[1]
                return
            if address + size == block[0]:
                block[0] = address
                block[1] += size
                if index and free[index - 1][0] + free[index - 1][1] == address:
                    free[index - 1][1] += free.pop(index)[1]
                return
            if block[0] > address:
                free.insert(index, [address, size])
                return


class _Allocator:
    """`ggml_gallocr_alloc_graph_impl`: memory from the first reader to the last, reused in place."""

    def __init__(self, host: int) -> None:
        self.host = host
        self.arenas = [_Arena(DEVICE_ALIGNMENT) for _ in range(host)] + [_Arena(HOST_ALIGNMENT)]

    def run(self, steps: list[_Step], first: list[_Step]) -> None:
        for node, place in first:
            self._allocate(node, place)
        for node, _ in steps:
            if node.root is not None and node.op:
                node.root.views += 1
            for source in node.sources:
                source.readers += 1
        for node, place in steps:
            self._allocate(node, place)
            for source in node.sources:
                self._release(source)

    def _size(self, node: Node, place: int) -> int:
        return node.size_bytes if place == self.host else node.device_bytes

    def _allocate(self, node: Node, place: int) -> None:
        if node.allocated or node.stored or node.root is not None:
            return
        node.allocated = True
        if node.op in IN_PLACE:
            for parent in node.sources:
                if self._reusable(parent, node):
                    node.address, node.arena, parent.allocated = parent.address, parent.arena, False
                    self._trim(node, parent)
                    return
        node.arena = place
        node.address = self.arenas[place].take(self._size(node, place))

    @staticmethod
    def _reusable(parent: Node, node: Node) -> bool:
        return (
            parent.allocated
            and not parent.is_output
            and parent.layout == node.layout
            and parent.readers == 1
            and not parent.views
        )

    def _trim(self, node: Node, parent: Node) -> None:
        """Give back what the overwritten tensor had more (flash attention's scratch)."""
        alignment = self.arenas[node.arena].alignment
        had, needs = self._size(parent, node.arena), self._size(node, node.arena)
        had += -had % alignment
        needs += -needs % alignment
        if had > needs:
            self.arenas[node.arena].give(node.address + needs, had - needs)

    def _release(self, source: Node) -> None:
        source.readers -= 1
        if source.readers or source.views:
            return
        owner = source
        if source.root is not None:
            owner = source.root
            owner.views -= 1
            if owner.views or owner.readers:
                return
        if owner.allocated and not owner.is_output:
            self.arenas[owner.arena].give(owner.address, self._size(owner, owner.arena))
            owner.allocated = False
