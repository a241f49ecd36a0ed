"""The three human-labelled tasks of `glue-mini`: which rows of vaderSentiment's rated snippets make them.

C.J. Hutto and E. Gilbert (ICWSM 2014) had 20 people rate 10,605 film-review snippets (Rotten Tomatoes), 3,708 Amazon
review sentences, 5,190 New York Times editorial sentences and 4,200 tweets from -4 to 4. The texts are other people's
and are not committed: only row numbers, labels and splits are. They lie in the source distribution vaderSentiment
3.2.1 (`additional_resources/hutto_ICWSM_2014.tar.gz`), which :func:`fetch` has pip download by version and hash.
"""

from __future__ import annotations

import hashlib
import html
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.assets.text.wordnet import digest, split_of
from benchmark.common.errors import UserError

VERSION = "3.2.1"
SHA256 = "5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803"
INNER = f"vaderSentiment-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
HYPOTHESES = ("The writer is pleased.", "The writer is displeased.")
LONGEST = 110
"""Characters of a snippet that is used; longer ones would slow every step."""


@dataclass(frozen=True)
class Snippet:
    """One rated text: its file, line (from 0), document, mean rating in [-4, 4]."""

    file: str
    line: int
    document: str
    rating: float
    text: str


@dataclass(frozen=True)
class Pick:
    """A row that is committed in place of a text: where it lies, the second sentence (ours) and the label."""

    file: str
    line: int
    b: str
    label: float


def fetch(folder: str | Path) -> Path:
    """The source distribution in `folder`, downloaded with pip where it is missing.

    Raises:
        UserError: pip cannot get it, or the file is not the one of the hash.
    """
    path = Path(folder) / f"vaderSentiment-{VERSION}.tar.gz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--no-binary",
                ":all:",
                "--no-build-isolation",
                "--dest",
                place,
                f"vaderSentiment=={VERSION}",
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            archives = list(Path(place).glob("*.tar.gz"))
            if done.returncode or not archives:
                last = (done.stderr.strip().splitlines() or ["no file came"])[-1]
                raise UserError(
                    f"pip could not fetch vaderSentiment {VERSION}, whose texts three tasks of glue-mini use: {last}",
                    f"With a network, run the same command again; or put vaderSentiment-{VERSION}.tar.gz into {folder}",
                )
            check(archives[0])
            archives[0].replace(path)
    check(path)
    return path


def check(path: Path) -> None:
    """Raise :class:`UserError` unless the file has the known hash."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(f"{path.name} has sha256 {digest}, expected {SHA256}", f"Delete it and run again: rm {path}")


def read(path: str | Path) -> dict[str, list[Snippet]]:
    """The snippets of each file of the source distribution, in its order. No file is unpacked to disk."""
    with tarfile.open(path, "r:gz") as outer:
        inner = outer.extractfile(INNER)
        assert inner is not None
        packed = io.BytesIO(inner.read())
    snippets = {}
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:
        for name, stem in FILES.items():
            member = archive.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
            assert member is not None
            rows = member.read().decode("utf-8", errors="replace").splitlines()
            snippets[name] = [_snippet(name, i, row) for i, row in enumerate(rows) if row.count("\t") >= 2]
    return snippets


def _snippet(name: str, line: int, row: str) -> Snippet:
    number, rating, text = row.split("\t", 2)
    text = " ".join(html.unescape(text).replace("''", '"').split())
    return Snippet(name, line, f"{name}/{number.split('_')[0]}", float(rating), text)


def _usable(snippets: list[Snippet], task: str) -> list[Snippet]:
    """Snippets of a fit length, each text once, in an order by hash."""
    seen: set[str] = set()
    usable = []
    for snippet in sorted(snippets, key=lambda s: digest(task, s.file, str(s.line))):
        text = snippet.text.lower()
        if 15 <= len(text) <= LONGEST and "\ufffd" not in text and text not in seen:
            seen.add(text)
            usable.append(snippet)
    return usable


def sentiment(data: dict[str, list[Snippet]]) -> Iterator[tuple[Snippet, str, float]]:
    """SST-2's form: film snippets rated beyond +1 (1) or below -1 (0)."""
    for s in _usable(data["movie"], "MovieSentiment"):
        if abs(s.rating) > 1:
            yield s, "", float(s.rating > 0)


def valence(data: dict[str, list[Snippet]]) -> Iterator[tuple[Snippet, str, float]]:
    """STS-B's form in its output, one real number; but of one text: a tweet's mean rating."""
    for s in _usable(data["tweets"], "TweetValence"):
        yield s, "", round(s.rating, 4)


def stance(data: dict[str, list[Snippet]]) -> Iterator[tuple[Snippet, str, float]]:
    """MNLI's form: a sentence with "The writer is pleased." or "... displeased.": entailed (0), neither (1: rated
    within 0.3 of 0), contradicted (2); ratings beyond 0.8 count as pleased or displeased."""
    for s in _usable(data["amazon"] + data["nyt"], "StanceEntailment"):
        side = digest("StanceEntailment", "hypothesis", s.file, str(s.line)) % 2
        if abs(s.rating) <= 0.3:
            yield s, HYPOTHESES[side], 1.0
        elif abs(s.rating) > 0.8:
            yield s, HYPOTHESES[side], 0.0 if (s.rating < 0) == bool(side) else 2.0


TASKS = {"MovieSentiment": (sentiment, 2), "TweetValence": (valence, 1), "StanceEntailment": (stance, 3)}


def build(data: dict[str, list[Snippet]], sizes: dict[str, int]) -> dict[str, dict[str, list[Pick]]]:
    """`{task: {split: picks}}`, as many of each label; documents do not cross splits. Raises ValueError for too few."""
    built: dict[str, dict[str, list[Pick]]] = {}
    for task, (rows, classes) in TASKS.items():
        picks: dict[str, dict[float, list[Pick]]] = {split: {} for split in sizes}
        for snippet, b, label in rows(data):
            split = split_of(snippet.document) or ""
            part = picks[split].setdefault(0.0 if classes == 1 else label, [])
            if len(part) < sizes[split] // classes:
                part.append(Pick(snippet.file, snippet.line, b, label))
        short = {
            s: {k: len(v) for k, v in p.items()}
            for s, p in picks.items()
            if any(len(v) < sizes[s] // classes for v in p.values())
        }
        if short:
            raise ValueError(f"{task}: too few rows by label: {short}")
        built[task] = {
            split: sorted(sum(parts.values(), []), key=lambda p: digest("row", p.file, str(p.line)))
            for split, parts in picks.items()
        }
    return built
