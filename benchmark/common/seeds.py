"""Seeds derived from what they are for, the same on every machine; methods have their own in `methods/core`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from benchmark.common.canonical import canonical_json


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from any JSON values, e.g. `derive_seed(suite, task, seed)`; equal parts give equal seeds."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def training_seed(*parts: object) -> int:
    """A 63-bit seed from any parts, by another digest: the committed weights were trained with these, so they stay."""
    digest = hashlib.blake2b(json.dumps([str(p) for p in parts]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
