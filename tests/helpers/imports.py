"""One import of a public checkpoint, and what it says."""

from __future__ import annotations

import pytest

from benchmark.cli import main as cli

EXPERT = "tanganke/clip-vit-base-patch32_mnist"

OWN, BASE = ("--head", "from-own-text"), ("--head", "from-base")


def run(*words: object) -> int:
    return cli.main(["assets", "checkpoints", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    return capsys.readouterr().err
