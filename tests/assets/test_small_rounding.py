"""What rounding task vectors to few bits changes is measured, before and after, on the files of a family."""

import pytest
import torch

from benchmark.assets.vision.small import rounding


def test_energy_in_leading_directions_is_that_of_the_singular_values():
    torch.manual_seed(0)
    vector = {"wide": torch.randn(40, 90), "tall": torch.randn(90, 50), "bias": torch.randn(40)}
    energies = [torch.linalg.svdvals(vector[n]).square() for n in ("wide", "tall")]
    expected = sum(float(e[: rounding.RANK].sum()) for e in energies) / sum(float(e.sum()) for e in energies)
    assert rounding.leading(vector) == pytest.approx(expected, rel=1e-4)


def test_cosines_are_of_all_pairs_over_all_tensors():
    one, two = (
        {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0])},
        {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])},
    )
    found = rounding.cosines([one, two, {n: -v for n, v in one.items()}])
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, -1.0, -(0.5**0.5)]))
