"""Blocks and parts are found in the names of an encoder's tensors."""

from __future__ import annotations

from methods.core.blocks import depths, parts


def test_blocks_are_found_in_the_names_of_common_encoders() -> None:
    resnet = [
        "conv1.weight",
        "bn1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.conv1.weight",
        "layer2.0.conv1.weight",
        "layer2.0.downsample.0.weight",
    ]
    bert = [
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.output.dense.bias",
        "encoder.layer.10.attention.self.query.weight",
    ]
    t5 = [
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi.weight",
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.block.1.layer.0.SelfAttention.q.weight",
    ]
    assert depths(resnet) == {
        "layer1.0.conv1.weight": 0,
        "layer1.1.conv1.weight": 0.5,
        "layer2.0.conv1.weight": 1,
        "layer2.0.downsample.0.weight": 1,
    }
    assert list(depths(bert).values()) == [0, 0, 1] and list(depths(t5).values()) == [0, 0, 0, 1]
    assert parts(resnet)["bn1"] == ["bn1.weight", "bn1.running_mean"]
    assert list(parts(bert)) == [
        "encoder.layer.10.attention",
        "encoder.layer.0.output",
        "encoder.layer.0.attention",
        "embeddings.word_embeddings",
    ]
    assert "encoder.block.0.layer.1" in parts(t5)
