"""How often a progress bar is drawn anew."""

from __future__ import annotations

import sys

#: Seconds between two lines of a log; a terminal's bar moves as it goes.
LOG = 30.0


def pause() -> float:
    """Seconds between two drawings of a bar on stderr, for tqdm's ``mininterval``: in a log half a minute."""
    return 0.1 if sys.stderr.isatty() else LOG
