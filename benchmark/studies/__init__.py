"""Experiments built from runs: which layers transfer, which tasks get along, which part of a method matters.

A study is a plan of runs through the same runner, store and spec as the main job, and of *derived* runs, whose merge is
made from other runs' merges (their layers exchanged, say) and whose spec names those runs. Derived runs have records of
their own, so a study resumes, is hashed, and is paired sample by sample like any other run. Importing this imports no
torch.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "ablations"
KINDS = ("transfer", "pilot", "ablate")
