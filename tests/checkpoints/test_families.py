"""A family folder that is not what its manifest says is refused, with what was found and what to type."""

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmark.checkpoints.families import FamilyError, check_file, describe_files, save_json, save_state, sha256
from benchmark.domains.vision.backbones import create_encoder
from benchmark.domains.vision.family import load_family

TASKS = ["Letters", "Shapes"]
FILES = ["base.safetensors", *(f"{t}.safetensors" for t in TASKS), *(f"heads/{t}.safetensors" for t in TASKS)]


def write_manifest(folder, names=FILES, **changes):
    save_json(
        folder / "manifest.json",
        {
            "name": "test family",
            "backbone": "ViT-mini",
            "quick_gelu": False,
            "classes": {t: ["a", "b", "c"] for t in TASKS},
            "files": describe_files(folder, names),
            **changes,
        },
    )


@pytest.fixture
def family(tmp_path):
    torch.manual_seed(0)
    for name in FILES:
        state = (
            {"weight": torch.randn(3, 64), "bias": torch.zeros(3)}
            if name.startswith("heads/")
            else create_encoder("ViT-mini").state_dict()
        )
        save_state(tmp_path / name, state, torch.float16)
    write_manifest(tmp_path)
    return tmp_path


def rewrite(folder, name, change, dtype=torch.float16):
    """Alter one file and let the manifest agree, so that only the content is wrong."""
    state = load_file(folder / name)
    change(state)
    save_state(folder / name, state, dtype)
    write_manifest(folder)


def test_family_returns_paths_heads_and_hashes_in_the_order_asked_for(family):
    found = load_family(family, "ViT-mini", TASKS[::-1])
    assert list(found.experts) == TASKS[::-1] and found.experts["Letters"] == family / "Letters.safetensors"
    assert found.base == family / "base.safetensors" and found.quick_gelu is False and found.name == "test family"
    assert found.heads["Shapes"].weight.dtype == torch.float32 and found.heads["Shapes"].weight.shape == (3, 64)
    assert found.hashes == {n: sha256(family / n) for n in FILES}


def test_only_the_files_of_the_tasks_asked_for_are_read(family):
    (family / "Shapes.safetensors").write_bytes(b"damaged")
    assert list(load_family(family, "ViT-mini", ["Letters"]).experts) == ["Letters"]


def test_truncated_file(family):
    path = family / "Letters.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FamilyError, match=r"Letters.safetensors has 1000 bytes, the manifest says \d+ \(truncated\)"):
        load_family(family, "ViT-mini", TASKS)
    with pytest.raises(FamilyError, match="cannot be read as safetensors"):
        check_file(path, {})


def test_altered_byte_is_found_by_its_hash(family):
    path = family / "Letters.safetensors"
    load_family(family, "ViT-mini", TASKS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FamilyError, match="sha256 .* the manifest says"):
        load_family(family, "ViT-mini", TASKS)


def test_a_large_file_is_not_read_again_by_a_later_process_until_it_changes(family, monkeypatch, tmp_path):
    from benchmark.checkpoints import families
    from benchmark.common import facts

    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(families, "LARGE", 1)
    monkeypatch.setattr(facts, "TICK", -60.0)
    monkeypatch.setattr(facts, "_FACTS", {})
    path, reads = family / "base.safetensors", []
    digest = facts.hashlib.file_digest
    monkeypatch.setattr(facts.hashlib, "file_digest", lambda *a: reads.append(1) or digest(*a))
    first = load_family(family, "ViT-mini", TASKS).hashes
    assert len(reads) == len(FILES)
    monkeypatch.setattr(facts, "_FACTS", {})  # a new process
    assert load_family(family, "ViT-mini", TASKS).hashes == first and len(reads) == len(FILES)
    monkeypatch.setattr(facts, "_FACTS", {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FamilyError, match="sha256 .* the manifest says"):
        load_family(family, "ViT-mini", TASKS)


def test_missing_and_extra_keys_are_named(family):
    def rename(state):
        state["visual.projection"] = state.pop("visual.proj")

    rewrite(family, "Shapes.safetensors", rename)
    with pytest.raises(FamilyError, match="missing keys visual.proj; extra keys visual.projection"):
        load_family(family, "ViT-mini", TASKS)


def test_wrong_shape_says_found_and_expected(family):
    rewrite(family, "Shapes.safetensors", lambda s: s.update({"visual.proj": s["visual.proj"][:, :32].contiguous()}))
    with pytest.raises(FamilyError, match=r"visual.proj is \[96, 32\], expected \[96, 64\]"):
        load_family(family, "ViT-mini", TASKS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_that_is_not_finite(family, value):
    rewrite(family, "Shapes.safetensors", lambda s: s["visual.ln_post.weight"].__setitem__(3, value))
    with pytest.raises(FamilyError, match="NaN or Inf in visual.ln_post.weight"):
        load_family(family, "ViT-mini", TASKS)


def test_integers_where_weights_should_be(family):
    rewrite(family, "base.safetensors", lambda s: s.update({"visual.proj": torch.zeros(96, 64, dtype=torch.int32)}))
    with pytest.raises(FamilyError, match="visual.proj is I32, expected F16"):
        load_family(family, "ViT-mini", TASKS)


def test_wrong_class_count(family):
    with pytest.raises(FamilyError, match=r"heads/Letters.safetensors: weight is \[3, 64\], expected \[26, 64\]"):
        load_family(family, "ViT-mini", TASKS, class_counts={"Letters": 26})


def test_missing_file(family):
    (family / "heads/Letters.safetensors").unlink()
    with pytest.raises(FamilyError, match="heads/Letters.safetensors is missing"):
        load_family(family, "ViT-mini", TASKS)


def test_unknown_task_lists_those_there_are(family):
    with pytest.raises(FamilyError, match="no expert for Colours; it has Letters, Shapes"):
        load_family(family, "ViT-mini", ["Colours"])


def test_another_backbone(family):
    with pytest.raises(FamilyError, match="holds ViT-mini weights; asked for ViT-B-32. Type --backbone ViT-mini"):
        load_family(family, "ViT-B-32", TASKS)


@pytest.mark.parametrize("content, message", [(None, "does not exist"), ("{", "is not JSON"), ("{}", "lacks name")])
def test_manifest_missing_or_damaged(family, content, message):
    path = family / "manifest.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(FamilyError, match=message):
        load_family(family, "ViT-mini", TASKS)


def test_interrupted_write_leaves_the_old_file_and_no_other(family, monkeypatch):
    before, names = (family / "base.safetensors").read_bytes(), sorted(p.name for p in family.iterdir())

    def dies(tensors, path, metadata=None):
        open(path, "wb").write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.checkpoints.families.save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        save_state(family / "base.safetensors", {"x": torch.zeros(2)})
    assert (family / "base.safetensors").read_bytes() == before
    assert sorted(p.name for p in family.iterdir()) == names


def test_manifest_says_dtype_size_and_hash_of_each_file(family):
    entry = json.loads((family / "manifest.json").read_text())["files"]["base.safetensors"]
    assert entry["dtype"] == "F16" and entry["bytes"] == (family / "base.safetensors").stat().st_size
    assert entry["values"] == sum(v.numel() for v in create_encoder("ViT-mini").state_dict().values())
