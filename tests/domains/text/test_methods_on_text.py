"""Every registered method on text: dictionaries of tokens, LoRA experts, a regression among the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.lacking import lacks_package
from helpers.small import SMALL
from helpers.tiny_text import TASKS, TinyTextBench, experts, tokens

import methods
from benchmark.domains.text.tokens import TextSource
from benchmark.harness.evaluate import evaluate
from methods.api import UNLABELLED, Access, Experts, NotApplicable, Stream
from methods.tools.activations import grams, layers

pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))

#: Follows a graph of convolutions, of which there are none here; what others need they declare.
LEFT_OUT = {"zipit"}


@pytest.mark.parametrize("name", [n for n in methods.names() if n not in ("pretrained", "individual")])
def test_every_method_runs_on_text_or_says_why_not(name: str) -> None:
    about, bench = methods.get(name), TinyTextBench()
    small = {k: v for k, v in SMALL.items() if k in about.parameters}
    access = about.access_for({**about.parameters, **small})
    sources = {split: {task: bench.source(task, split) for task in TASKS} for split, _ in access.items()}
    streams = [Stream(sources, access)] if access else []
    if name in LEFT_OUT or any(experts().lacks(need) for need in about.needs):
        with pytest.raises(NotApplicable):
            about(experts(), *streams, **small)
        return
    merged = about(experts(), *streams, **small)
    for task, outputs in TASKS.items():
        found = evaluate(merged.model(task), bench.source(task, "test"), bench.meter(task), device=bench.device)
        assert found.n == 24 and merged.model(task)(tokens(3).batch(torch.arange(5))).shape == (5, outputs)


@pytest.mark.parametrize("name", ["weight_average", "task_arithmetic", "ties", "tsv_m", "iso_c", "emr"])
def test_merging_adapters_is_merging_the_full_weights_they_make(name: str) -> None:
    low = experts()
    full = Experts.from_state_dicts(
        dict(low.base),
        {t: {n: low.expert(t)[n] for n in low.base} for t in low.tasks},
        heads=low.heads,
        encoder=low.encoder,
        kinds=low.kinds,
    )
    for task in low.tasks:
        first, second = (methods.get(name)(e).state_dict(task) for e in (low, full))
        moved = 0.0
        for key in low.names:
            torch.testing.assert_close(first[key], second[key])
            moved += float((first[key] - low.base[key]).abs().sum())
        assert moved > 0.1


def test_a_saved_merge_of_adapters_evaluates_as_the_merge(tmp_path: Path) -> None:
    made = methods.get("robustmerge")(experts())
    batch = tokens(3).batch(torch.arange(5))
    made.save(tmp_path / "m.safetensors")
    again = type(made).load(tmp_path / "m.safetensors", experts())
    torch.testing.assert_close(made.model("mcc")(batch), again.model("mcc")(batch), rtol=0, atol=0)
    assert not torch.equal(made.model("mcc")(batch), methods.get("pretrained")(experts()).model("mcc")(batch))


def test_padding_is_no_sample_of_a_layers_input() -> None:
    found = experts()
    device = torch.device("cpu")
    wanted = layers(found, "linear")

    class Padded(TextSource):
        """The same rows with six columns of padding more."""

        def __getitem__(self, index: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            inputs, labels = super().__getitem__(index)
            more = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}
            return {n: torch.nn.functional.pad(t, (0, 6), value=more[n]) for n, t in inputs.items()}, labels

    def collected(kind: type[TextSource]) -> dict[str, torch.Tensor]:
        sources = {t: kind(tokens(k, classes=c), device) for k, (t, c) in enumerate(TASKS.items())}
        stream = Stream({"train": sources}, Access(train=UNLABELLED), shuffle=False)
        return dict(grams(found, stream, 24, wanted))["mcc"]

    tight, loose = collected(TextSource), collected(Padded)
    query = next(n for n in wanted if n.endswith("query.weight"))
    assert float(tight[query].abs().max()) > 1
    for name in wanted:
        torch.testing.assert_close(tight[name], loose[name], rtol=1e-4, atol=1e-4)
