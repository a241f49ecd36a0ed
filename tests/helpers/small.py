"""So little work that every method takes a moment."""

from __future__ import annotations

SMALL = {"steps": 2, "batch_size": 8, "examples": 8, "proxies": 4, "epochs": 2}
