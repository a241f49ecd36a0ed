"""Prompt-built heads, and the compact vocabulary behind the tiny ones."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from benchmark.domains.vision.backbones import get_backbone
from benchmark.domains.vision.heads import ClassificationHead, prompts_of, zero_shot_head
from benchmark.domains.vision.vocabulary import CompactTokenizer, create_clip, join_towers, split_towers

CLASSES = ["T-shirt", "Cyrillic capital letter shcha", "ankle boot"]
TEMPLATES = ["a picture of a {}.", "the {}, small and grey."]


@pytest.fixture(scope="module")
def mini():
    torch.manual_seed(3)
    tokenizer = CompactTokenizer.of([p for c in CLASSES for p in prompts_of(c, TEMPLATES)], context_length=24)
    return create_clip(get_backbone("ViT-mini"), len(tokenizer)).eval(), tokenizer


def test_head_is_the_scaled_mean_of_unit_prompt_embeddings(mini):
    clip, tokenizer = mini
    head = zero_shot_head(clip, tokenizer, CLASSES, TEMPLATES)
    rows = []
    for name in CLASSES:
        vectors = [clip.encode_text(tokenizer(t.format(name)))[0] for t in TEMPLATES]
        mean = sum(v / v.norm() for v in vectors) / len(vectors)
        rows.append(mean / mean.norm() * clip.logit_scale.exp())
    torch.testing.assert_close(head.weight, torch.stack(rows), rtol=1e-5, atol=1e-5)
    assert torch.equal(head.bias, torch.zeros(3))


def test_head_builder_agrees_with_open_clips_own_classifier(mini):
    clip, tokenizer = mini
    theirs = open_clip.build_zero_shot_classifier(clip, tokenizer, CLASSES, TEMPLATES)
    head = zero_shot_head(clip, tokenizer, CLASSES, TEMPLATES)
    torch.testing.assert_close(head.weight, theirs.T * clip.logit_scale.exp(), rtol=1e-5, atol=1e-5)


def test_templates_may_be_functions(mini):
    clip, tokenizer = mini
    functions = [lambda c, t=t: t.format(c) for t in TEMPLATES]
    assert torch.equal(
        zero_shot_head(clip, tokenizer, CLASSES, functions).weight,
        zero_shot_head(clip, tokenizer, CLASSES, TEMPLATES).weight,
    )


def test_logits_depend_on_the_direction_of_a_feature_only():
    torch.manual_seed(0)
    head = ClassificationHead(torch.randn(5, 8), torch.randn(5))
    features = torch.randn(4, 8)
    expected = torch.stack([head.weight @ (f / f.norm()) + head.bias for f in features])
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(features * 17), expected)


def test_head_refuses_a_bias_of_another_length():
    with pytest.raises(ValueError, match="bias"):
        ClassificationHead(torch.zeros(5, 8), torch.zeros(4))


def test_compact_vocabulary_keeps_the_tokens_and_their_order(mini):
    _, tokenizer = mini
    full = open_clip.SimpleTokenizer(context_length=24)
    prompts = [p for c in CLASSES for p in prompts_of(c, TEMPLATES)]
    compact = tokenizer(prompts)
    assert torch.equal(torch.tensor(tokenizer.ids)[compact], full(prompts))
    assert compact.max() == len(tokenizer) - 1 and torch.equal(compact.argmax(1), full(prompts).argmax(1))
    assert len(tokenizer) < 40


def test_word_outside_the_vocabulary_is_an_error_that_names_it(mini):
    with pytest.raises(ValueError, match="zebra"):
        mini[1]("a picture of a zebra.")


def test_prompt_longer_than_the_context_is_an_error():
    with pytest.raises(ValueError, match="at most 4 fit"):
        CompactTokenizer.of(["a picture of a very long name"], context_length=6)


def test_towers_survive_splitting_and_joining(mini):
    clip, tokenizer = mini
    visual, text = split_towers(clip, tokenizer)
    assert all(k.startswith("visual.") for k in visual) and not any(k.startswith("visual.") for k in text)
    again, tokens = join_towers(get_backbone("ViT-mini"), visual, text)
    assert tokens.ids == tokenizer.ids
    assert torch.equal(
        zero_shot_head(again, tokens, CLASSES, TEMPLATES).weight,
        zero_shot_head(clip, tokenizer, CLASSES, TEMPLATES).weight,
    )
    images = torch.randn(2, 3, 28, 28)
    assert torch.equal(again.encode_image(images), clip.encode_image(images))
    assert F.normalize(again.encode_text(tokens("a picture of a T-shirt.")), dim=-1).shape == (1, 64)
