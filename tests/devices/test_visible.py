import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.devices.visible import Seat, choose, entries
from aimind.errors import DeviceError

GPUS = (
    Seat(0, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
    Seat(1, "GPU-8930b5a1-0000-4000-8000-000000000001"),
    Seat(2, "GPU-1c3d2e4f-0000-4000-8000-000000000002"),
)
DIVIDED = (
    Seat(0, "GPU-aaaa", "MIG-1111"),
    Seat(0, "GPU-aaaa", "MIG-1122"),
    Seat(1, "GPU-bbbb"),
)


def chosen(text: str | None) -> list[int]:
    return [seat.index for seat in choose(text, GPUS)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [0, 1, 2]),
        ("0", [0]),
        ("2,1", [2, 1]),
        (" 1 , 0 ", [1, 0]),
        ("0,2,-1,1", [0, 2]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("0,none,1", [0]),
        ("1gpu2,2ampere", [1, 2]),
        ("GPU-1c3d", [2]),
        ("GPU-1c3d,GPU-8932", [2, 0]),
        ("GPU-1c3d,GPU-893", [2]),
        ("GPU-1c3d,0", [2]),
        ("0,GPU-1c3d", [0]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", [0]),
    ],
)
def test_devices_are_chosen_as_cuda_chooses_them(text: str | None, expected: list[int]) -> None:
    assert chosen(text) == expected


@pytest.mark.parametrize("text", ["", " ", "-1", "-1,0", "none", "NoDevFiles", ",0", "void"])
def test_everything_is_hidden(text: str) -> None:
    assert entries(text) == ()
    assert chosen(text) == []


@given(st.permutations(range(3)).flatmap(lambda order: st.sampled_from([order[:n] for n in range(1, 4)])))
def test_any_numbers_are_shown_in_their_order(order: list[int]) -> None:
    assert chosen(",".join(map(str, order))) == order
    assert chosen(",".join(GPUS[index].gpu_uuid for index in order)) == order


@pytest.mark.parametrize("text", ["0,0", "1,0,1", "GPU-1c3d,GPU-1c", "1,01"])
def test_a_device_named_twice_is_an_error(text: str) -> None:
    with pytest.raises(DeviceError, match=r"names device [0-2] twice"):
        choose(text, GPUS)


def test_a_repetition_behind_the_end_of_the_list_is_never_read() -> None:
    assert chosen("0,-1,0") == [0]


@pytest.mark.parametrize("text", ["3", "99999999999999999999999", "GPU-dead", "GPU-893", "MIG-1111"])
def test_a_first_device_that_is_not_here_is_an_error(text: str) -> None:
    with pytest.raises(DeviceError, match="does not exist") as caught:
        choose(text, GPUS)
    assert "2 (GPU-1c3d2e4f-0000-4000-8000-000000000002)" in caught.value.hint


def test_a_machine_without_devices_has_none_to_name() -> None:
    assert choose("0", ()) == ()
    assert choose(None, ()) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [(1, "")]),
        ("0", [(0, "MIG-1111")]),
        ("0,1", [(0, "MIG-1111")]),
        ("1,0", [(1, "")]),
        ("GPU-aaaa", [(0, "MIG-1111")]),
        ("MIG-112", [(0, "MIG-1122")]),
        ("MIG-1122,MIG-1111", [(0, "MIG-1122")]),
    ],
)
def test_one_instance_of_a_divided_gpu_is_used_alone(
    text: str | None, expected: list[tuple[int, str]]
) -> None:
    assert [(seat.index, seat.mig_uuid) for seat in choose(text, DIVIDED)] == expected


def test_an_ambiguous_instance_is_not_here() -> None:
    with pytest.raises(DeviceError, match="does not exist"):
        choose("MIG-11", DIVIDED)


def test_all_gpus_divided_show_the_first_instance() -> None:
    assert choose(None, DIVIDED[:2]) == DIVIDED[:1]
