"""Merges that are differentiated with respect to their coefficients."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    random_experts,
    wide_experts,
)

from methods.tools.coefficients import LayerwiseMerge, Leaves, combine


def test_gradient_of_the_fused_merge_is_the_inner_product() -> None:
    base, vectors = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    lam = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: combine(c, base, vectors), (lam,))
    plain = base + (lam[:, None] * vectors).sum(0).view(3, 4)
    torch.testing.assert_close(combine(lam, base, vectors), plain)


@pytest.mark.parametrize("together", [1, 1 << 20], ids=["apart", "together"])
def test_every_tensor_is_merged_and_differentiated_as_in_the_plain_form(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.tools.coefficients._SMALL", 100)
    monkeypatch.setattr("methods.tools.coefficients._TOGETHER", together)
    experts = random_experts()
    merge = LayerwiseMerge(experts)
    assert len(merge._parts) == (2 if together > 1 else 1 + sum(experts.base[n].numel() > 100 for n in merge.names))
    with torch.no_grad():
        merge.raw.uniform_()
    plain = merge.raw.detach().clone().requires_grad_()
    merged = {
        n: experts.base[n] + torch.tensordot(plain[i], experts.task_vectors(n), 1) for i, n in enumerate(merge.names)
    }
    weights = {n: torch.randn_like(t) for n, t in merged.items()}
    for found in (made := merge()), merged:
        sum((t * weights[n]).sum() for n, t in list(found.items())[:-1]).backward()
    for n in merged:
        torch.testing.assert_close(made[n], merged[n])
    torch.testing.assert_close(merge.raw.grad, plain.grad)
    assert (merge.raw.grad[:-1] != 0).all() and (merge.raw.grad[-1] == 0).all()


def test_leaves_add_up_to_the_same_gradient_as_one_graph() -> None:
    experts = random_experts()
    inputs = torch.randn(4, 3, 16, 16)
    whole, parts = LayerwiseMerge(experts), LayerwiseMerge(experts)
    state = whole()
    (experts.forward(state, "t0", inputs).sum() + experts.forward(state, "t1", inputs[:2]).square().sum()).backward()
    leaves = Leaves(parts())
    assert len({t.grad.untyped_storage().data_ptr() for t in leaves.state.values() if t.grad is not None}) == 1
    experts.forward(leaves.state, "t0", inputs).sum().backward()
    experts.forward(leaves.state, "t1", inputs[:2]).square().sum().backward()
    leaves.backward()
    torch.testing.assert_close(whole.raw.grad, parts.raw.grad, rtol=1e-4, atol=1e-5)
    assert whole.raw.grad.abs().max() > 0


def test_a_merge_is_written_over_by_the_next_and_a_kept_one_is_not() -> None:
    merge = LayerwiseMerge(wide_experts())
    first, kept = merge(), merge.merged()
    before = {n: t.clone() for n, t in kept.items()}
    with torch.no_grad():
        merge.raw += 0.1
    loss = first["w"].square().sum()
    second = merge()
    assert second["w"].data_ptr() == first["w"].data_ptr() and not torch.equal(second["w"], before["w"])
    assert all(torch.equal(kept[n], before[n]) for n in kept)
    with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
        loss.backward()
    second["w"].square().sum().backward()
    assert merge.raw.grad is not None and (merge.raw.grad[0] != 0).all()


def test_coefficients_that_leave_the_box_get_no_gradient() -> None:
    merge = LayerwiseMerge(random_experts(), prior=0.5)
    with torch.no_grad():
        merge.raw[0] = torch.tensor([1.2, 1.0, -0.1])
    sum(t.sum() for t in merge().values()).backward()
    assert merge.raw.grad[0, 0] == 0 and merge.raw.grad[0, 2] == 0 and merge.raw.grad[0, 1] != 0
