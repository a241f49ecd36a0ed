"""The plain text of `llm-small`'s bystander: paragraphs of Python's own documentation, as `pydoc` ships it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.assets.text.wordnet import digest
from benchmark.checkpoints.families import save_json
from benchmark.common.files import write_atomic
from benchmark.domains.text import embedded
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.language_model import base_folder
from benchmark.domains.text.plain import FILE, NAME, info, paragraphs, tokens_of
from benchmark.domains.text.questions import FOLDER, tokens_sha256

COUNT = 48
#: Words of a paragraph.
SIZES = range(45, 121)


def chosen(topics: Mapping[str, str]) -> list[str]:
    """`COUNT` paragraphs of running English out of the topics: no code, grammar, table or list; chosen by hash.

    Raises ValueError where there are too few.
    """
    texts = set()
    for topic in topics.values():
        for block in topic.split("\n\n"):
            text = re.sub(r"[*`]+", "", " ".join(block.split()))
            plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,.;:'\"()_-]+[.]", text) is not None
            if plain and not re.search(r"(^|\n) ", block) and "::" not in text and len(text.split()) in SIZES:
                texts.add(text)
    if len(texts) < COUNT:
        raise ValueError(f"{len(texts)} paragraphs; {COUNT} are wanted")
    return sorted(texts, key=lambda text: digest("plain", text))[:COUNT]


def make(folder: Path = FOLDER, texts: list[str] | None = None) -> dict[str, Any]:
    """Write the texts (of this Python by default), and their entry into the folder's manifest, which is returned."""
    from pydoc_data.topics import topics

    lines = "".join(f"{text}\n" for text in texts or chosen(topics))
    write_atomic(folder / FILE, lines)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    entry = {
        "what": "paragraphs of the documentation in pydoc_data.topics",
        "python": platform.python_version() if texts is None else info()["python"],
        "n": lines.count("\n"),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }
    manifest["bystanders"] = {NAME: entry}
    save_json(folder / "manifest.json", manifest)
    embedded.manifest.cache_clear()
    entry["tokens"] = tokens_sha256(tokens_of(load_tokenizer(base_folder()), folder))
    save_json(folder / "manifest.json", manifest)
    embedded.manifest.cache_clear()
    return embedded.manifest(folder)


def difference(folder: Path = FOLDER) -> str:
    """What to say of the committed texts beside this Python's documentation; empty where they are the same."""
    from pydoc_data.topics import topics

    try:
        same = chosen(topics) == paragraphs(folder)
    except ValueError:
        same = False
    if same:
        return ""
    return f"the plain text is of Python {info(folder)['python']}; this one's documentation is another"
