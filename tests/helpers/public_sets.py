"""Data sets of the full suites cut down to a few classes."""

from __future__ import annotations

import pytest

from benchmark.domains.vision import public as full


@pytest.fixture
def small(monkeypatch):
    """Manifests that expect other test sizes."""
    real = full.info

    def expecting(**sizes: int):
        def found(task: str, family: str | None = None) -> full.SetInfo:
            about = real(task, family)
            if task in sizes:
                about = about.model_copy(update={"test": about.test.model_copy(update={"n": sizes[task]})})
            return about

        monkeypatch.setattr(full, "info", found)

    return expecting
