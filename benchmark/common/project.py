"""Where the project's own folders lie: the one place that knows how deep its files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What is run, compared and shown first where no suite is named.
DEFAULT_SUITE = "vision-small-8"
#: Embedded data sets and embedded weights: files only, no code.
DATA = ROOT / "benchmark" / "data" / "mini"
WEIGHTS = ROOT / "benchmark" / "models" / "mini"
#: The project's records and boards: a user's own, the committed ones, and accepted ones of third parties.
RESULTS = ROOT / "results"
LOCAL, REFERENCE, SUBMITTED = RESULTS / "local", RESULTS / "reference", RESULTS / "submitted"
#: Bases and experts that a user trained again.
RETRAINED = ROOT / ".cache" / "retrained"
