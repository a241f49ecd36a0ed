"""Training is seeded by step: it learns, and an interrupted run ends in the same bits as an uninterrupted one."""

import numpy as np
import pytest
import torch

from benchmark.assets.training import Schedule, epoch_indices, generator, shift
from benchmark.assets.vision.finetuning import accuracy, average, finetune
from benchmark.assets.vision.pretraining import caption_loss, gather, pretrain
from benchmark.domains.vision.backbones import create_encoder
from benchmark.domains.vision.heads import ClassificationHead

STEPS = Schedule(steps=12, lr=1e-3, warmup=3, batch=32, weight_decay=0.1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    """Four classes that differ in brightness of one quarter."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    images = random.integers(0, 60, (200, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[14 * (label // 2) : 14 * (label // 2) + 14, 14 * (label % 2) : 14 * (label % 2) + 14] += 150
    return images, labels.astype(np.int64)


@pytest.fixture(scope="module")
def pool(data):
    names = ["cat", "dog", "bird", "fish"]
    colour = np.repeat(data[0][..., None], 3, axis=-1)
    return gather(
        [(*data, names, ["a picture of a {}", "a {}"]), (colour, data[1], names, ["a colour picture of a {}"])]
    )


def head():
    torch.manual_seed(5)
    return ClassificationHead(10 * torch.nn.functional.normalize(torch.randn(4, 64), dim=-1))


def same(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


def test_interrupted_base_continues_to_the_same_bits(pool, tmp_path):
    whole, _, losses = pretrain(pool, schedule=STEPS)
    checkpoint = tmp_path / "checkpoint.safetensors"
    _, _, first = pretrain(pool, schedule=STEPS, checkpoint=checkpoint, stop_at=5)
    rest_model, _, rest = pretrain(pool, schedule=STEPS, checkpoint=checkpoint)
    assert (len(first), len(rest)) == (5, 7) and first + rest == losses
    assert same(whole.state_dict(), rest_model.state_dict())
    assert losses[-1] < losses[0]


def test_interrupted_expert_continues_to_the_same_bits_and_learns(data, tmp_path):
    torch.manual_seed(1)
    base = create_encoder("ViT-mini").state_dict()
    whole, losses = finetune(base, head(), *data, task="Quarters", schedule=STEPS)
    checkpoint = tmp_path / "checkpoint.safetensors"
    finetune(base, head(), *data, task="Quarters", schedule=STEPS, checkpoint=checkpoint, stop_at=7)
    rest, _ = finetune(base, head(), *data, task="Quarters", schedule=STEPS, checkpoint=checkpoint)
    assert same(whole.state_dict(), rest.state_dict())
    assert losses[-1] < 0.7 * losses[0]
    untrained = create_encoder("ViT-mini")
    untrained.load_state_dict(base)
    assert accuracy(whole, head(), *data) > accuracy(untrained, head(), *data) + 20


def test_fine_tuning_leaves_the_head_alone_and_follows_its_seed(data):
    torch.manual_seed(1)
    base = create_encoder("ViT-mini").state_dict()
    frozen, few = head(), Schedule(steps=2, lr=1e-3, warmup=1, batch=16)
    expected = frozen.weight.detach().clone()
    runs = [
        finetune(base, frozen, *data, task=t, schedule=few, seed=s)[0].state_dict()
        for t, s in (("A", 0), ("A", 0), ("A", 1), ("B", 0))
    ]
    assert torch.equal(frozen.weight, expected)
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2]) and not same(runs[0], runs[3])


def test_checkpoint_of_other_settings_is_refused(data, tmp_path):
    base, checkpoint = create_encoder("ViT-mini").state_dict(), tmp_path / "checkpoint.safetensors"
    finetune(base, head(), *data, task="A", schedule=STEPS, checkpoint=checkpoint, stop_at=1)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        finetune(base, head(), *data, task="B", schedule=STEPS, checkpoint=checkpoint)


def test_every_epoch_shows_every_sample_once():
    drawn = torch.cat([epoch_indices(10, 4, step, 0, "task") for step in range(10)])
    assert all(sorted(drawn[e * 10 : e * 10 + 10].tolist()) == list(range(10)) for e in range(4))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


def test_shift_moves_whole_images_and_repeats_the_border():
    images = torch.randint(0, 256, (50, 9, 9, 3), dtype=torch.uint8, generator=generator(0))
    moved = shift(images, 2, generator(1))
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate").byte()
    options = [padded[:, :, y : y + 9, x : x + 9].permute(0, 2, 3, 1) for y in range(5) for x in range(5)]
    hits = torch.stack([(o == moved).flatten(1).all(1) for o in options])
    assert hits.any(0).all() and hits.any(1).sum() > 10
    assert torch.equal(shift(images[..., 0], 2, generator(1)), moved[..., 0])


def test_pool_keeps_labels_apart_and_repeats_grey(pool, data):
    assert pool.images.shape == (400, 28, 28, 3) and pool.images.dtype == torch.uint8
    assert pool.labels[:200].tolist() == data[1].tolist() and pool.labels[200:].tolist() == (data[1] + 4).tolist()
    assert pool.prompts[1] == ["a picture of a dog", "a dog"] and pool.prompts[5] == ["a colour picture of a dog"]
    assert torch.equal(pool.images[:200], pool.images[200:])


def test_images_of_one_name_are_no_false_negatives_of_each_other():
    logits, target = torch.tensor([[9.0, -9.0], [9.0, -9.0], [-9.0, 9.0]]), torch.tensor([0, 0, 1])
    uniform = -torch.log(torch.tensor(0.5)) / 2  # two equal positives share the probability of text 0
    torch.testing.assert_close(caption_loss(logits, target), uniform, rtol=1e-4, atol=1e-4)


def test_average_is_in_float32():
    states = [{"w": torch.tensor([60000.0], dtype=torch.float16)}, {"w": torch.tensor([50000.0], dtype=torch.float16)}]
    found = average(states)["w"]
    assert found.dtype == torch.float32 and abs(found.item() - 55000) < 40
