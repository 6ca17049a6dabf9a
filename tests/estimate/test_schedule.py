"""The allocator's rules, one at a time: reuse in place, reuse of holes, copies between places."""

from __future__ import annotations

import pytest

from aimind.estimate.blocks import cached_view
from aimind.estimate.graph import F16, Graph, Node, graph_input, mul_mat, operation, same, stored, view
from aimind.estimate.schedule import OFFLOAD_BATCH, PIPELINE_COPIES, buffer_sizes

KIB = 1024


def weight(rows: int, columns: int, place: int) -> Node:
    return stored(4 * rows * columns, (columns, rows), place)


def built(*results: Node) -> Graph:
    graph = Graph()
    for result in results:
        result.is_output = True
        graph.expand(result)
    return graph


def kept_input() -> Node:
    """One KiB that is never given back."""
    x = graph_input((256, 1), 4)
    x.is_output = True
    return x


def test_an_operation_overwrites_a_source_that_nobody_else_reads() -> None:
    x = kept_input()
    once = same("add", mul_mat(weight(256, 256, 0), x), weight(256, 1, 0))
    assert buffer_sizes(built(once), devices=0) == (2 * KIB,)


def test_a_source_that_is_read_again_is_kept() -> None:
    x = kept_input()
    product = mul_mat(weight(256, 256, 0), x)
    twice = same("add", same("rms_norm", product), product)
    assert buffer_sizes(built(twice), devices=0) == (3 * KIB,)


def test_a_view_keeps_what_it_looks_at() -> None:
    x = kept_input()
    product = mul_mat(weight(256, 256, 0), x)
    seen = view(product, (1, 256))
    result = operation("cont", (1, 256), seen)
    assert buffer_sizes(built(result), devices=0) == (3 * KIB,)


def test_memory_is_used_again_when_its_last_reader_is_done() -> None:
    x = kept_input()
    for _ in range(10):
        x = mul_mat(weight(256, 256, 0), x)
    assert buffer_sizes(built(x), devices=0) == (3 * KIB,)


def test_inputs_are_copied_to_the_device_that_reads_them() -> None:
    x = graph_input((256, 1), 4)
    product = mul_mat(weight(256, 256, 0), x)
    assert buffer_sizes(built(product), devices=1) == (2 * KIB, KIB)


def test_large_steps_of_layers_in_ram_are_computed_on_a_device() -> None:
    """The weight is copied there; small steps stay where it is."""
    for rows, on_device in ((OFFLOAD_BATCH - 1, 0), (OFFLOAD_BATCH, 256 * KIB + 2 * OFFLOAD_BATCH * KIB)):
        product = mul_mat(weight(256, 256, 1), graph_input((256, rows), 4))
        device, _ = buffer_sizes(built(product), devices=1)
        assert device == on_device


def test_a_pipeline_keeps_several_copies_of_every_input() -> None:
    one, several = (
        buffer_sizes(
            built(mul_mat(weight(256, 256, 1), mul_mat(weight(256, 256, 0), graph_input((256, 1), 4)))),
            devices=2,
            pipeline=pipeline,
        )
        for pipeline in (False, True)
    )
    assert one == (2 * KIB, 2 * KIB, KIB)
    assert several == ((PIPELINE_COPIES + 1) * KIB, (PIPELINE_COPIES + 1) * KIB, PIPELINE_COPIES * KIB)


@pytest.mark.parametrize(
    ("owner", "shape", "transposed", "copied_bytes"),
    [
        pytest.param((576, 32768, 1), (576, 32768, 1, 1), False, 37748736, id="keys of GLM 5"),
        pytest.param((576, 32768, 1), (512, 32768, 1, 1), False, 37748608, id="values of GLM 5"),
        pytest.param((128, 32768, 1), (128, 1, 32768, 1), False, 8388608, id="indexer's keys of GLM 5"),
        pytest.param((1024, 1024, 4), (256, 1024, 2, 4), True, 7340032, id="padded values of Gemma 4"),
        pytest.param((1024, 1024, 1), (256, 1024, 2, 1), True, 1048576, id="one stream of Gemma 4"),
    ],
)
def test_a_copied_view_of_a_cache_ends_with_its_last_element(
    owner: tuple[int, ...], shape: tuple[int, ...], transposed: bool, copied_bytes: int
) -> None:
    """The bytes that ggml 0.27 allocates for the copy on a device."""
    elements, cells, streams = owner
    cache = stored(elements * cells * streams * F16, owner, 0, weight=False)
    assert cached_view(cache, shape, (F16, 1), transposed=transposed).device_bytes == copied_bytes
