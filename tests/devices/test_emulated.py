"""The emulated device refuses what CUDA refuses, counts what CUDA waits for, and computes what the CPU computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.emulated import Machine, waits_of
from helpers.lacking import lacks
from torch import nn

from benchmark.domains.dense.model import Normalisation
from benchmark.domains.vision.backbones import Preprocessing
from benchmark.suites import bench
from benchmark.suites.bench import from_host

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def here() -> torch.Tensor:
    return torch.arange(12.0).view(3, 4)


def there() -> torch.Tensor:
    return here().to(CUDA)


def put(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    tensor[index] = value
    return tensor


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a sum of two devices": (lambda: there() + here(), RuntimeError, "same device"),
    "a product of two devices": (lambda: here() @ there().T, RuntimeError, "same device"),
    "a number of the device with a tensor of the host": (lambda: here() + there().sum(), RuntimeError, "same device"),
    "tensors of two devices in one": (lambda: torch.cat([here(), there()]), RuntimeError, "same device"),
    "writing over another device": (lambda: here().add_(there()), RuntimeError, "same device"),
    "an index on the device": (lambda: here()[there()[0].long() % 3], RuntimeError, "indices should be"),
    "values on the host": (lambda: put(there(), torch.tensor([0, 1]), here()[:2]), RuntimeError, "same device"),
    "a generator of the host": (
        lambda: torch.rand(3, device=CUDA, generator=torch.Generator()),
        RuntimeError,
        "'cuda' device type for generator",
    ),
    "a module on the host": (lambda: nn.Linear(4, 2)(there()), RuntimeError, "same device"),
    "an array": (lambda: there().numpy(), TypeError, "can't convert cuda:0"),
    "a product of whole numbers": (lambda: there().long() @ there().long().T, RuntimeError, "not implemented"),
    "a device without its index": (lambda: torch.cuda.set_device(torch.device("cuda")), ValueError, "index"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses_is_refused(what: str, cuda: Machine | None) -> None:
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call()


def test_what_cuda_allows_is_allowed(cuda: Machine | None) -> None:
    x = there()
    assert (x + torch.tensor(1.0)).device == CUDA
    assert x[torch.tensor([0, 2])].device == CUDA and put(x, torch.tensor([0]), torch.tensor(5.0))[0, 0].item() == 5
    assert put(x, 0, here()[0]).tolist() == here().tolist()
    assert x.to("cuda").device == CUDA and torch.rand(2, device="cuda").device == CUDA
    assert x.numpy(force=True).tolist() == here().tolist()


def test_two_devices_do_not_mix(cuda: Machine | None) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(lacks("one CUDA device", "./run_all.sh --test -m cuda, on a machine with two"))
    with pytest.raises(RuntimeError, match="same device"):
        there() + here().to("cuda:1")


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_gradients_and_updates_are_those_of_the_cpu(autocast: torch.dtype | None, cuda: Machine | None) -> None:
    found = []
    for device in (CPU, CUDA):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).to(device)
        parameters = list(model.parameters())
        model[0].weight.requires_grad_(False)
        optimiser = torch.optim.Adam(parameters, lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            with torch.autocast("cuda" if device == CUDA else "cpu", dtype=autocast, enabled=autocast is not None):
                outputs = model((here() / 10).to(device))
                assert autocast is None or outputs.dtype == autocast
            torch.nn.functional.cross_entropy(outputs.float(), torch.tensor([0, 1, 2]).to(device)).backward()
            optimiser.step()
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        found.append([p.detach().cpu() for p in parameters])
    tolerance = 1e-4 if autocast is None else 0.1
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


def test_waits_are_what_the_host_waits_for(cuda: Machine | None) -> None:
    x = there()
    waiting = (
        lambda: x.sum().item(),
        lambda: x.cpu(),
        lambda: x[x > 3],
        lambda: bool(x.any()),
        lambda: here().to(CUDA),
    )
    for wait in waiting:
        with waits_of(cuda) as waits:
            wait()
        assert waits.total() == 1, waits
    with waits_of(cuda) as waits:
        (x @ x.T).softmax(-1).argmax()
        here().pin_memory().to(CUDA, non_blocking=True)
    assert not waits


@pytest.mark.parametrize("kind", [Preprocessing, Normalisation])
def test_images_are_made_ready_without_a_wait(kind: type, cuda: Machine | None) -> None:
    images = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    about = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    ready = kind(*about, CUDA, torch.float32)
    first = ready(images)
    with waits_of(cuda) as waits:
        ready(images)
    assert not waits
    torch.testing.assert_close(first.cpu(), kind(*about, CPU, torch.float32)(images))


def test_memory_is_counted_once_for_all_views_and_given_back(cuda: Machine | None) -> None:
    torch.cuda.reset_peak_memory_stats(0)
    before, peak = torch.cuda.memory_allocated(0), torch.cuda.max_memory_allocated(0)
    x = torch.zeros(1 << 20, device=CUDA)
    views = [x[:10], x.view(2, -1)]
    assert torch.cuda.memory_allocated(0) - before == 4 << 20 and len(views) == 2
    del x, views
    assert torch.cuda.memory_allocated(0) == before and torch.cuda.max_memory_allocated(0) - peak == 4 << 20
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        torch.empty(1 << 50, dtype=torch.int8, device=CUDA)


def test_a_stream_that_does_not_wait_for_another_is_found(cuda: Machine | None) -> None:
    if cuda is None:
        pytest.skip(lacks("the emulated device", "the same test without -m cuda"))
    side = torch.cuda.Stream(CUDA)
    with torch.cuda.stream(side):
        copy = here().pin_memory().to(CUDA, non_blocking=True)
    with pytest.raises(RuntimeError, match="has not waited"):
        copy + 1
    torch.cuda.current_stream(CUDA).wait_stream(side)
    copy + 1
    assert not cuda.loose
    del copy
    assert cuda.loose == 1, "the side stream may write over it before the other has read it"


def test_inputs_are_copied_on_a_stream_of_their_own_in_order_and_without_a_wait(
    cuda: Machine | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_copying", functools.cache(bench._copying.__wrapped__))
    torch.cuda.current_stream(CUDA)
    sums = []
    with waits_of(cuda) as waits:
        ahead = from_host(here(), CUDA)
        for number in range(1, 20):
            following = from_host(here() + number, CUDA)
            sums.append(ahead.sum())
            ahead = following
    assert not waits
    assert [int(each) for each in sums] == [66 + 12 * number for number in range(19)]
    del ahead, following
    if cuda is not None:
        assert bench._copying(CUDA).done == 20 and cuda.streams.default[0].done >= 19 and not cuda.loose
