"""`assets data fetch`: what is not pinned is said before it starts; one commit a set; only the files that are read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from helpers.hub_data import parquet
from huggingface_hub.utils import filter_repo_objects

from benchmark.cli import main as cli
from benchmark.domains.vision import check
from benchmark.domains.vision import public as full

MAIN = "a" * 40


class Hub:
    """Repositories in folders, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.files = folder, [], []
        self.endpoints: set[str | None] = set()
        self.broken = ""

    def repository(self, repo: str) -> Path:
        return self.folder / repo.replace("/", "--")

    def HfApi(self, endpoint: str | None = None) -> Any:
        def dataset_info(repo: str, revision: str, files_metadata: bool) -> SimpleNamespace:
            root = self.repository(repo)
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            siblings = [SimpleNamespace(rfilename=str(p.relative_to(root)), size=p.stat().st_size) for p in files]
            return SimpleNamespace(sha=revision if len(revision) == 40 else MAIN, siblings=siblings)

        self.endpoints.add(endpoint)
        return SimpleNamespace(dataset_info=dataset_info)

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str, local_dir: Path, endpoint: Any, allow_patterns: list[str]
    ) -> str:
        self.endpoints.add(endpoint)
        self.asked.append((repo, repo_type, revision))
        root = self.repository(repo)
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            if (local_dir / name).exists():
                continue
            if name == self.broken:
                raise OSError("the line went dead")
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).write_bytes((root / name).read_bytes())
            self.files.append(name)
        return str(local_dir)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", made.HfApi)
    (tmp_path / "data").mkdir()
    return made


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Any:
    return lambda *words: cli.main(["assets", "data", "fetch", *words, "--root", str(tmp_path / "data")])


def test_a_commit_is_pinned_and_noted_and_the_network_never_used_unasked(
    hub: Hub, fetch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(hub.repository("ylecun/mnist"), {"train": 10, "test": 10}, full.info("MNIST").classes)
    assert fetch("MNIST") == 2 and not hub.asked
    assert "Add --download" in capsys.readouterr().err
    assert fetch("MNIST", "--download", "--revision", "MNIST=main") == 0
    assert set(hub.asked) == {("ylecun/mnist", "dataset", MAIN)}
    assert check.check_set("MNIST", tmp_path / "data").place == "parquet, ylecun/mnist at aaaaaaaaaaaa"
    assert fetch("MNIST", "--download", "--revision", "MNIST") == 2
    assert fetch("MNIST", "--download") == 0
    assert hub.asked[-1] == ("ylecun/mnist", "dataset", full.info("MNIST").revision)


def test_all_that_is_not_pinned_is_said_at_once_and_nothing_is_fetched(
    hub: Hub, fetch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(hub.repository("ylecun/mnist"), {"train": 10, "test": 10}, full.info("MNIST").classes)
    assert fetch("MNIST", "SVHN", "Cars", "--download", "--revision", "Cars=main") == 2 and not hub.asked
    said = capsys.readouterr().err
    assert "no commit is pinned of SVHN (ufldl-stanford/svhn)\n" in said and "Type --revision SVHN=main for" in said
    assert fetch("vision-8", "--download") == 2 and not hub.asked
    unpinned = [t for t in ("SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB") if not full.info(t).revision]
    assert f"Type --revision {' '.join(f'{task}=main' for task in unpinned)} for" in capsys.readouterr().err
    # What is then typed is what the plan says.
    assert fetch("vision-8") == 2
    assert f"Add --revision {' '.join(f'{task}=main' for task in unpinned)} --download" in capsys.readouterr().err


def test_a_set_without_a_hub_copy_stops_no_other_and_is_told_to_be_converted(
    hub: Hub, fetch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(hub.repository("ylecun/mnist"), {"train": 10, "test": 10}, full.info("MNIST").classes)
    assert fetch("EMNIST", "MNIST", "--download") == 2
    assert "assets data convert EMNIST FROM " in capsys.readouterr().err
    assert (tmp_path / "data/MNIST/data").is_dir()
    (tmp_path / "data/EMNIST-digits").mkdir()
    assert fetch("EMNIST", "MNIST", "--download") == 0


def test_only_the_files_of_the_splits_that_are_read_come(hub: Hub, fetch: Any, tmp_path: Path) -> None:
    root, splits = hub.repository("ufldl-stanford/svhn"), {"train": 10, "test": 10, "extra": 10}
    for config in ("cropped_digits", "full_numbers"):
        (parquet(root / config, splits, full.info("SVHN").classes) / "data").rename(root / f"{config}s")
        for path in (root / f"{config}s").iterdir():
            path.rename(root / config / path.name)
        (root / f"{config}s").rmdir()
    (root / "picture.png").write_bytes(b"a logo")
    assert fetch("SVHN", "--download", "--revision", "SVHN=main", "--mirror", "https://hub.example") == 0
    assert hub.files == [f"cropped_digits/{split}-00000-of-00001.parquet" for split in ("test", "train")]
    assert hub.endpoints == {"https://hub.example"}
    assert full.copy_of(full.info("SVHN"), tmp_path / "data").splits == ["train", "test"]


def test_a_readme_decides_on_the_files_before_they_are_fetched(hub: Hub, fetch: Any) -> None:
    root = parquet(hub.repository("ylecun/mnist"), {"learn": 10, "exam": 10, "more": 10}, full.info("MNIST").classes)
    files = "  - {split: train, path: data/learn*}\n  - {split: test, path: data/exam*}\n"
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: mnist\n  data_files:\n{files}---\n")
    assert fetch("MNIST", "--download") == 0
    assert hub.files == ["README.md", "data/exam-00000-of-00001.parquet", "data/learn-00000-of-00001.parquet"]


def test_a_copy_without_the_split_is_refused_before_anything_large_comes(
    hub: Hub, fetch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(hub.repository("ethz/food101"), {"train": 10, "test": 10}, full.info("Food101").classes)
    assert fetch("Food101", "--download") == 2 and not hub.files
    assert "ethz/food101 has no split validation, but train, test" in capsys.readouterr().err
    (hub.repository("ylecun/mnist") / "x").mkdir(parents=True)
    (hub.repository("ylecun/mnist") / "x/everything.parquet").write_bytes(b"")
    assert fetch("MNIST", "--download") == 2 and not hub.files
    assert "ylecun/mnist: x/everything.parquet belong to no split" in capsys.readouterr().err


def test_what_broke_off_goes_on_where_it_was(hub: Hub, fetch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(hub.repository("ylecun/mnist"), {"train": 10, "test": 10}, full.info("MNIST").classes)
    hub.broken = "data/train-00000-of-00001.parquet"
    assert fetch("MNIST", "--download") == 2
    assert "the line went dead" in (said := capsys.readouterr().err) and "what is there is not fetched again" in said
    hub.broken = ""
    assert fetch("MNIST", "--download") == 0
    assert hub.files == ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
