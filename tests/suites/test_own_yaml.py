"""A user's YAML is read, or refused in one line that names file and key, and what to type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.own_suites import CLASSES, write_yaml

from benchmark import suites
from benchmark.common.errors import UserError
from benchmark.suites import own

ROOT = Path(__file__).resolve().parents[2]


def refused(path: Path) -> UserError:
    with pytest.raises(UserError) as raised:
        suites.load(str(path))
    assert "\n" not in raised.value.message and path.name in raised.value.message and raised.value.hint
    return raised.value


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_suites_file_is_a_suite_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(tmp_path)
    suite = suites.load(str(path))
    assert (suite.name, suite.tasks, suite.scale, suite.domain) == ("own:tiny", list(CLASSES), "own", "vision")
    assert suite.own is not None and suite.own.base == tmp_path / "base" and not suite.embedded
    monkeypatch.chdir(tmp_path)
    assert suites.load("suite.yaml") == suites.load("./suite.yaml") == suite and suite.typed == "suite.yaml"


def test_paths_are_relative_to_the_file_and_not_to_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_yaml(tmp_path, base="../weights/base")
    monkeypatch.chdir("/")
    content = own.read(path)
    assert content.base == tmp_path.parent / "weights" / "base"
    assert content.tasks["pets"].data.path == tmp_path / "data" / "pets"


def test_no_suite_of_the_project_can_be_taken_for_a_users(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, **{"name": "suite.yaml"})
    changed(path, lambda content: content.update(name="vision-mini-8"))
    suite = suites.load(str(path))
    assert suite.name == "own:vision-mini-8" and own.is_own(suite.name)
    assert suite.name not in suites.names() and not any(map(own.is_own, suites.names()))
    with pytest.raises(UserError, match="goes by its file"):
        suites.load(suite.name)


UNKNOWN = {
    "titel": (lambda c: c.update(titel="x"), "unknown key titel; did you mean title?"),
    "task": (lambda c: c["tasks"]["pets"].update(expertt="x"), "unknown key tasks.pets.expertt; did you mean expert?"),
    "head": (
        lambda c: c["tasks"]["pets"].update(head={"tensor": "x"}),
        "unknown key tasks.pets.head.tensor; did you mean tensors?",
    ),
    "data": (
        lambda c: c["tasks"]["pets"].update(data={"tset": "x"}),
        "unknown key tasks.pets.data.tset; did you mean test?",
    ),
    "splits": (lambda c: c.update(splits={"seeds": 1}), "unknown key splits.seeds; did you mean seed?"),
    "preprocessing": (
        lambda c: c.update(preprocessing={"sise": 1}),
        "unknown key preprocessing.sise; did you mean size?",
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_key_names_the_nearest(kind: str, tmp_path: Path) -> None:
    change, said = UNKNOWN[kind]
    error = refused(changed(write_yaml(tmp_path), change))
    assert said in error.message and error.hint.startswith("known: ")


WRONG = {
    "no base": (lambda c: c.pop("base"), "lacks base"),
    "no expert": (lambda c: c["tasks"]["pets"].pop("expert"), "lacks tasks.pets.expert"),
    "no tasks": (lambda c: c.update(tasks={}), "tasks: Dictionary should have at least 1 item"),
    "a name with a slash": (lambda c: c.update(name="a/b"), "name: a name of letters, digits and . _ + - is wanted"),
    "a task with a slash": (lambda c: c["tasks"].update({"a/b": c["tasks"]["pets"]}), "tasks.a/b"),
    "a share above one": (
        lambda c: c.update(splits={"test": 1.5}),
        "splits.test: Input should be less than 1 (it is '1.5')",
    ),
    "two heads": (
        lambda c: c["tasks"]["pets"].update(head={"tensors": "fc", "file": "x.pt"}),
        "tasks.pets.head: tensors and file exclude each other",
    ),
    "a template without a place": (
        lambda c: c.update(head={"text": "clip", "templates": ["a photo"]}),
        "head: the template 'a photo' has no {}",
    ),
    "path and test": (
        lambda c: c["tasks"]["pets"].update(data={"path": "a", "test": "b"}),
        "tasks.pets.data: either path",
    ),
    "train alone": (lambda c: c["tasks"]["pets"].update(data={"train": "a"}), "tasks.pets.data: either path, or test"),
    "an interpolation": (lambda c: c.update(preprocessing={"interpolation": "cubic"}), "preprocessing.interpolation"),
    "a number as a path": (lambda c: c.update(base=3), "base: a path is wanted (it is '3')"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_value_names_its_key(kind: str, tmp_path: Path) -> None:
    change, said = WRONG[kind]
    assert said in refused(changed(write_yaml(tmp_path), change)).message


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "a: !!python/object/apply:os.system [ls]", "\t- x", "\0"])
def test_what_is_no_yaml_of_keys_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    refused(tmp_path / "suite.yaml")


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    path.write_text(path.read_text() + "\ntitle: again\n")
    assert "title is there twice" in refused(path).message


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "there is no" in refused(tmp_path / "suite.yaml").message
    (tmp_path / "folder.yaml").mkdir()
    assert "it is a folder" in refused(tmp_path / "folder.yaml").message


def test_words_that_yaml_reads_as_numbers_are_classes_all_the_same(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, tasks={"pets": {"classes": [0, 1, True]}})
    assert own.read(path).tasks["pets"].classes == ["0", "1", "true"]


SAME = {
    "title": lambda c: c.update(title="another"),
    "batch size": lambda c: c.update(batch_size=7),
    "a moved base": lambda c: c.update(base="elsewhere/base"),
    "a moved expert": lambda c: c["tasks"]["pets"].update(expert="elsewhere/pets", data="elsewhere/images"),
    "methods": lambda c: c.update(methods=["ties"]),
    "splits as they are": lambda c: c.update(splits={"seed": 0}),
    "a head for all in each": lambda c: [task.update(head="classifier") for task in c["tasks"].values()],
}
OTHER = {
    "the draw": lambda c: c.update(splits={"seed": 1}),
    "one task's draw": lambda c: c["tasks"]["pets"].update(splits={"test": 0.5}),
    "the size of images": lambda c: c.update(preprocessing={"size": 14}),
    "features": lambda c: c.update(features="mean"),
    "the head's tensors": lambda c: c["tasks"]["pets"].update(head="fc"),
    "length one": lambda c: c["tasks"]["pets"].update(head={"tensors": "classifier", "normalise": True}),
    "classes": lambda c: c["tasks"]["pets"].update(classes=["a", "b"]),
    "a task less": lambda c: c["tasks"].pop("pets"),
    "the encoder": lambda c: c.update(encoder="timm/vit_tiny_patch16_224"),
}


@pytest.mark.parametrize("kind", [*SAME, *OTHER])
def test_the_identity_follows_what_decides_a_number(kind: str, tmp_path: Path) -> None:
    before = suites.load(str(write_yaml(tmp_path, head="classifier")))
    after = suites.load(str(changed(tmp_path / "suite.yaml", {**SAME, **OTHER}[kind])))
    assert (before.identity == after.identity) is (kind in SAME)


def test_every_default_method_is_one(tmp_path: Path) -> None:
    from benchmark.records.spec import check_texts

    path = changed(write_yaml(tmp_path), lambda content: content.pop("methods"))
    check_texts(suites.load(str(path)).methods, {})
    assert "symerge" in suites.load(str(path)).methods


def test_reading_one_imports_no_torch(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    code = f"import sys; from benchmark import suites; suites.load({str(path)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
