"""Experts in few bits: the file is what its layout says, and the expert is exactly what it is defined to be."""

import pytest
import torch
from safetensors.torch import save_file

from methods.api import Experts, MergingError
from methods.core import packed

SHAPES = {"conv.weight": (6, 3, 2, 2), "block.weight": (10, 37), "block.bias": (10,), "one": (1,)}


@pytest.fixture
def base():
    torch.manual_seed(0)
    return {name: torch.randn(shape).half() for name, shape in SHAPES.items()}


@pytest.fixture
def expert(base):
    return {name: value.float() + 0.01 * torch.randn(value.shape) for name, value in base.items()}


def write(path, base, expert, bits=3):
    save_file(packed.pack(base, expert, bits), path, metadata=packed.metadata(bits, "0" * 64))
    return path


def nearest(vector, bits):
    """The definition, entry by entry: each row's root mean square times the level next to each entry."""
    rows = vector.reshape(vector.shape[0] if vector.ndim > 1 else 1, -1)
    scale = rows.square().mean(dim=1, keepdim=True).sqrt()
    steps = packed.levels(bits)
    place = (rows / scale)[..., None].sub(steps).abs().argmin(dim=-1)
    return (steps[place] * scale).reshape(vector.shape)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4099])
def test_codes_come_back_as_they_were(bits, count):
    codes = torch.randint(1 << bits, (count,))
    stored = packed.pack_codes(codes, bits)
    assert stored.dtype == torch.uint8 and len(stored) == bits * -(-count // 8)
    assert torch.equal(packed.unpack_levels(stored, bits, count), packed.levels(bits)[codes])


def test_the_first_code_lies_in_the_lowest_bits():
    assert packed.pack_codes(torch.tensor([5, 0, 0, 0, 0, 0, 0, 6]), 3).tolist() == [5, 0, 6 << 5]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_an_expert_is_the_base_and_the_nearest_levels_of_its_rows(tmp_path, base, expert, bits):
    state = packed.open_state(write(tmp_path / "e.safetensors", base, expert, bits), base)
    assert list(state) == list(base) and state.shapes == SHAPES
    for name, start in base.items():
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], start.float() + nearest(expert[name] - start.float(), bits))


@pytest.mark.parametrize(("bits", "lost"), [(2, 0.343), (3, 0.186), (4, 0.097)])
def test_levels_lose_what_a_gaussian_must_lose(bits, lost):
    torch.manual_seed(0)
    vector = torch.randn(8, 4096)
    assert (nearest(vector, bits) - vector).norm() / vector.norm() == pytest.approx(lost, abs=0.004)


def test_rows_that_were_not_trained_stay_the_base(tmp_path, base, expert):
    expert["block.weight"][3] = base["block.weight"][3].float()
    state = packed.open_state(write(tmp_path / "e.safetensors", base, expert), base)
    assert torch.equal(state["block.weight"][3], base["block.weight"][3].float())


def test_file_holds_exactly_the_documented_tensors(base, expert):
    stored = packed.pack(base, expert, 3)
    assert {n: tuple(t.shape) for n, t in stored.items()} == packed.layout(SHAPES, 3)
    assert stored["block.weight"].numel() == 3 * 47 and stored["block.weight.scale"].shape == (10,)


def test_experts_read_packed_and_whole_files_alike(tmp_path, base, expert):
    save_file(base, tmp_path / "base.safetensors")
    file = write(tmp_path / "packed.safetensors", base, expert)
    defined = dict(packed.open_state(file, base))
    save_file(defined, tmp_path / "whole.safetensors")
    experts = Experts.from_state_dicts(
        tmp_path / "base.safetensors", {"a": file, "b": tmp_path / "whole.safetensors", "c": defined}
    )
    assert set(experts.names) == set(SHAPES)
    for name in SHAPES:
        first, *others = experts.task_vectors(name)
        assert all(torch.equal(first, other) for other in others) and first.norm() > 0
    replaced = experts.with_experts({"b": file})
    assert torch.equal(replaced.expert("b")["one"], defined["one"])


def test_a_task_vector_of_another_base_is_refused(tmp_path, base, expert):
    file = write(tmp_path / "e.safetensors", base, expert)
    other = {**base, "block.bias": torch.zeros(20)}
    with pytest.raises(MergingError, match="e.safetensors holds a task vector of another base"):
        packed.open_state(file, other)


def test_a_number_of_bits_without_levels_is_refused(tmp_path, base, expert):
    with pytest.raises(MergingError, match="in 5 bits; known: 2, 3, 4"):
        packed.pack(base, expert, 5)
