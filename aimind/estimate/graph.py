"""A graph of tensor operations in ggml's terms, as far as memory goes: shapes, sizes, who reads whom.

It mirrors `ggml_tensor` and `ggml_build_forward_expand` of ggml 0.25.3 (ggml/src/ggml.c), so that blocks.py
can describe a model in the words of llama.cpp's src/llama-graph.cpp and schedule.py can place and allocate it
as ggml-backend.cpp and ggml-alloc.c do.
"""

from __future__ import annotations

from math import prod

Shape = tuple[int, ...]

F32, F16, I32, I64 = 4, 2, 4, 8
# A view only reinterprets a tensor; it is never computed nor stored.
VIEW = "view"
# `ggml_op_can_inplace` in ggml-alloc.c: these may overwrite a source that nobody else reads.
IN_PLACE = frozenset(
    {
        "fill",
        "scale",
        "add",
        "add_id",
        "sub",
        "mul",
        "div",
        "sqr",
        "sqrt",
        "unary",
        "rope",
        "rms_norm",
        "clamp",
        "soft_max",
    }
)


class Node:
    """One tensor: a weight, a cache, an input, a view of one of these, or the result of an operation.

    Attributes:
        op: the operation; empty for weights, caches and inputs.
        shape: elements per dimension, rows first.
        item_bytes: per element.
        size_bytes: in host memory; device_bytes: what CUDA allocates for it.
        layout: equal for tensors of one type, shape and strides; `None` if it is a strided view.
        root: of a view, the tensor that owns the memory.
        place: where it lives: the index of a device, or that of the host; -1 while undecided.
        stored: a weight or cache, in memory before any graph; weight: a weight.
        batch: rows that the scheduler looks at before it moves a CPU layer's operation to a device.
        host_only: the device's backend has no kernel for it.
    """

    __slots__ = (
        "address",
        "allocated",
        "arena",
        "batch",
        "copies",
        "device_bytes",
        "host_only",
        "is_input",
        "is_output",
        "item_bytes",
        "layout",
        "op",
        "place",
        "readers",
        "root",
        "shape",
        "size_bytes",
        "sources",
        "stored",
        "views",
        "visited",
        "weight",
    )

    def __init__(
        self, op: str, shape: Shape, sources: tuple[Node, ...] = (), *, item_bytes: int = F32
    ) -> None:
        """A result of an operation, contiguous in memory."""
        self.op = op
        self.shape = shape
        self.item_bytes = item_bytes
        self.size_bytes = self.device_bytes = prod(shape) * item_bytes
        self.layout: tuple[int, Shape] | None = (item_bytes, shape)
        self.sources = list(sources)
        self.root: Node | None = None
        self.place = -1
        self.stored = self.weight = self.is_input = self.is_output = self.host_only = False
        self.batch = 0
        self.visited = False
        self.copies: dict[int, list[Node]] = {}
        # What the allocator keeps of it.
        self.readers = self.views = self.address = 0
        self.allocated = False
        self.arena = -1


class Graph:
    """The operations in the order in which they run.

    Attributes:
        nodes: operations and views; leaves: inputs, weights, caches.
        kept: tensors that a fused kernel of CUDA reads to its end: its first operation, the one after
            which they
            may go, and the tensors.
    """

    def __init__(self) -> None:
        """An empty graph."""
        self.nodes: list[Node] = []
        self.leaves: list[Node] = []
        self.kept: list[tuple[Node, Node, tuple[Node, ...]]] = []

    def expand(self, node: Node) -> Node:
        """Append the node after all that it needs, depth first (`ggml_build_forward_expand`)."""
        if not node.visited:
            node.visited = True
            for source in node.sources:
                if not source.visited:
                    self.expand(source)
            (self.nodes if node.op else self.leaves).append(node)
        return node


def stored(
    size_bytes: int, shape: Shape, place: int, *, device_bytes: int | None = None, weight: bool = True
) -> Node:
    """A weight or a cache."""
    node = Node("", shape)
    node.size_bytes, node.device_bytes = size_bytes, size_bytes if device_bytes is None else device_bytes
    node.place, node.stored, node.weight = place, True, weight
    return node


def graph_input(shape: Shape, item_bytes: int) -> Node:
    """What the program fills in before each step: token ids, positions, masks."""
    node = Node("", shape, item_bytes=item_bytes)
    node.is_input = True
    return node


def operation(op: str, shape: Shape, *sources: Node, item_bytes: int = F32) -> Node:
    """The result of an operation that is not one of those below."""
    node = Node(op, shape, sources, item_bytes=item_bytes)
    node.batch = prod(shape[1:])
    return node


def view(source: Node, shape: Shape, *, dense: bool = False) -> Node:
    """A reinterpretation. `dense`: contiguous, as after a reshape."""
    node = Node(VIEW, shape, (source,), item_bytes=source.item_bytes)
    node.root = source.root or source
    if not dense:
        node.layout = None
        node.size_bytes = node.device_bytes = _span(source, shape)
    return node


def _span(source: Node, shape: Shape) -> int:
    """Bytes from the first to the last element of a part of every row, which is what a copy of it takes."""
    elements, rows = prod(shape), prod(source.shape[1:])
    if elements == prod(source.shape):
        return source.size_bytes
    if not rows or elements % rows:
        return elements * source.item_bytes
    return ((rows - 1) * source.shape[0] + elements // rows) * source.item_bytes


def write(target: Node, *sources: Node, op: str = "set_rows") -> Node:
    """An operation that writes into a tensor that exists: its result is a view of that."""
    node = Node(op, target.shape, (*sources, target), item_bytes=target.item_bytes)
    node.root = target.root or target
    node.size_bytes, node.device_bytes, node.layout = target.size_bytes, target.device_bytes, target.layout
    return node


def mul_mat(weight: Node, x: Node) -> Node:
    """`ggml_mul_mat`: the rows of `weight` times those of `x`."""
    rows = weight.shape[1] if len(weight.shape) > 1 else 1
    node = operation("mul_mat", (rows, *x.shape[1:]), weight, x)
    node.batch = x.shape[1] if len(x.shape) > 1 else 1
    return node


def mul_mat_id(weight: Node, x: Node, ids: Node) -> Node:
    """`ggml_mul_mat_id`: the rows of the experts that `ids` chooses for every token."""
    node = operation("mul_mat_id", (weight.shape[1], *ids.shape), weight, x, ids)
    node.batch = ids.shape[1]
    return node


def get_rows(table: Node, ids: Node) -> Node:
    """`ggml_get_rows`."""
    node = operation("get_rows", (table.shape[0], *ids.shape), table, ids)
    node.batch = 0
    return node


def same(op: str, x: Node, *others: Node) -> Node:
    """An operation whose result has the shape of its first source."""
    return operation(op, x.shape, x, *others, item_bytes=x.item_bytes)
