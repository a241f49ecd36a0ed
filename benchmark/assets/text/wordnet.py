"""The five rule-made tasks of `glue-mini`, built from WordNet 3.0: its example sentences, glosses and pointers.

Labels follow from WordNet's structure or from an edit that was made, never from a person's judgement: what they mean
and what they are not stands in `mini/glue/README.md`. Choices are made by hash, so that the build depends on no
generator; a row is used only where all its headwords fall in one split (`split_of`), so that no headword crosses splits
in any task.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

POS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
SHARES = (("train", 0.58), ("val", 0.16), ("test", 0.26))


@dataclass
class Synset:
    """One meaning: its words (most usual first), definition, example sentences and pointers `(symbol, key)`."""

    key: str
    field_number: str
    words: list[str]
    gloss: str
    examples: list[str]
    pointers: list[tuple[str, str]]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.key[0]


@dataclass(frozen=True)
class Row:
    """One sample. `key`: its headwords; `b` is empty for a single sentence."""

    key: str
    a: str
    b: str
    label: int


def digest(*parts: str) -> int:
    """A 64-bit number from texts."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def split_of(*words: str) -> str | None:
    """The split that all the words (or documents) belong to, or None where they differ."""
    splits = set()
    for word in words:
        place, edge = digest("split", word.lower()) / 2**64, 0.0
        for name, share in SHARES:
            edge += share
            if place < edge or name == "test":
                splits.add(name)
                break
    return splits.pop() if len(splits) == 1 else None


def read_wordnet(folder: str | Path) -> dict[str, Synset]:
    """Synsets of a WordNet 3.0 `dict` folder by key (`n00001740`). Raises OSError, or ValueError for damaged files."""
    synsets: dict[str, Synset] = {}
    for letter, name in (("n", "noun"), ("v", "verb"), ("a", "adj"), ("r", "adv")):
        for line in (Path(folder) / f"data.{name}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):
                continue
            data, _, text = line.partition(" | ")
            parts = data.split()
            size = int(parts[3], 16)
            words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in parts[4 : 4 + 2 * size : 2]]
            rest = parts[4 + 2 * size :]
            pointers = [
                (rest[1 + 4 * i], ("a" if rest[3 + 4 * i] == "s" else rest[3 + 4 * i]) + rest[2 + 4 * i])
                for i in range(int(rest[0]))
            ]
            gloss = re.sub(r"^\([^)]*\)\s*", "", text.split('; "')[0].strip()).strip("; ")
            examples = [e.strip() for e in re.findall(r'"([^"]+)"', text)]
            synsets[letter + parts[0]] = Synset(letter + parts[0], parts[1], words, gloss, examples, pointers)
    for line in (Path(folder) / "index.sense").read_text(encoding="latin-1").splitlines():
        sense, offset, _, count = line.split()
        lemma, _, about = sense.partition("%")
        letter = {"1": "n", "2": "v", "3": "a", "5": "a", "4": "r"}[about[0]]
        if int(count):
            synsets[letter + offset].counts[lemma.replace("_", " ")] = int(count)
    return synsets


class WordNet:
    """Synsets with what the tasks ask of them."""

    def __init__(self, synsets: dict[str, Synset]) -> None:
        self.synsets = synsets
        self.senses: dict[str, set[str]] = defaultdict(set)
        self.fields: dict[str, list[Synset]] = defaultdict(list)
        for key, synset in synsets.items():
            for word in synset.words:
                self.senses[word.lower()].add(key)
            if synset.counts:
                self.fields[synset.field_number + synset.kind].append(synset)

    def above(self, key: str, levels: int = 20) -> list[str]:
        """Keys of the hypernyms, nearest first, at most `levels` up (first of each where there are several)."""
        keys: list[str] = []
        while len(keys) < levels:
            up = [target for symbol, target in self.synsets[key].pointers if symbol in ("@", "@i")]
            if not up or up[0] in keys:
                break
            key = up[0]
            keys.append(key)
        return keys

    def all_above(self, key: str) -> set[str]:
        """Keys of every hypernym along every path."""
        keys, waiting = set(), [key]
        while waiting:
            for symbol, target in self.synsets[waiting.pop()].pointers:
                if symbol in ("@", "@i") and target not in keys:
                    keys.add(target)
                    waiting.append(target)
        return keys

    def related(self, first: str, second: str) -> bool:
        """Whether any sense of one word shares a synset with, or lies above, any sense of the other."""
        a, b = self.senses[first.lower()], self.senses[second.lower()]
        return bool(a & b) or any(self.all_above(k) & b for k in a) or any(self.all_above(k) & a for k in b)


def common(synset: Synset) -> list[str]:
    """Its words that occur in tagged texts in this sense; plain lower-case words only."""
    return [w for w in synset.words if synset.counts.get(w.lower()) and re.fullmatch(r"[a-z][a-z ]+", w)]


def article(word: str) -> str:
    """The word with "a" or "an" (by spelling)."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _ordered(task: str, items: list[Synset]) -> list[Synset]:
    return sorted(items, key=lambda s: digest(task, s.key))


def _short(text: str, least: int, most: int) -> bool:
    return least <= len(text.split()) <= most


def acceptability(net: WordNet) -> Iterator[Row]:
    """CoLA's form: an example sentence as it stands (1), or with two or three neighbouring words out of order (0)."""
    for synset in _ordered("acceptability", list(net.synsets.values())):
        for text in synset.examples[:1]:
            words = text.split()
            if not _short(text, 6, 14) or not all(re.fullmatch(r"[A-Za-z',.;!?-]+", w) for w in words):
                continue
            label = digest("acceptability", "label", text) % 2
            if not label:
                inner = [w.lower() for w in words]
                places = [i for i in range(len(words) - 2) if len({*inner[i : i + 3]}) == 3]
                if not places:
                    continue
                i = places[digest("place", text) % len(places)]
                first, second, third = words[i : i + 3]
                words[i : i + 3] = [third, first, second] if digest("order", text) % 2 else [second, third, first]
            yield Row(synset.words[0].lower(), " ".join(words), "", label)


def paraphrase(net: WordNet) -> Iterator[Row]:
    """MRPC's form: an example sentence, and the same with its headword replaced by a synonym (1) or by an unrelated
    word of the same part of speech (0)."""
    for synset in _ordered("paraphrase", [s for s in net.synsets.values() if s.examples and len(s.words) > 1]):
        words = [w for w in synset.words if re.fullmatch(r"[a-z]+", w)]
        for text in synset.examples[:1]:
            head = next((w for w in words if re.search(rf"\b{w}\b", text)), None)
            if head is None or not _short(text, 4, 14):
                continue
            label = digest("paraphrase", "label", text) % 2
            if label:
                others = [w for w in words if w != head]
            else:
                pool = net.fields[synset.field_number + synset.kind]
                start = digest("other", text)
                tried = [w for i in range(8) if pool for w in common(pool[(start + i) % len(pool)])]
                others = [w for w in tried if " " not in w and not net.related(w, head)]
            others = [w for w in others if split_of(w, head)]
            if others:
                other = others[digest("word", text) % len(others)]
                yield Row(f"{head}|{other}", text, re.sub(rf"\b{head}\b", other, text, count=1), label)


QUESTIONS = (
    "What does {} mean?",
    "How would you explain the word {}?",
    "What is meant by {}?",
    "Can you tell me what {} means?",
    "What is the meaning of {}?",
    "How do people use the word {}?",
)


def questions(net: WordNet) -> Iterator[Row]:
    """QQP's form: two differently put questions about two words of one meaning (1), or of unrelated ones of the
    same lexicographer's field (0)."""
    for synset in _ordered("questions", [s for s in net.synsets.values() if s.counts and s.kind in "nv"]):
        if not common(synset):
            continue
        first = common(synset)[0]
        same = [w for w in synset.words if re.fullmatch(r"[a-z][a-z ]+", w)]
        mates, start = net.fields[synset.field_number + synset.kind], digest("mate", synset.key)
        tried = [w for i in range(12) for w in common(mates[(start + i) % len(mates)])[:1]]
        different = [w for w in tried if not net.related(w, first)]
        for label, pool in ((1, same), (0, different)):
            pool = [w for w in pool if w[:4] != first[:4] and split_of(w, first)]
            for other in sorted(pool, key=lambda w: digest("other", synset.key, w))[:2]:
                i, step = digest("template", first, other) % 6, 1 + digest("step", first, other) % 5
                asked, again = QUESTIONS[i].format(first), QUESTIONS[(i + step) % 6].format(other)
                yield Row(f"{first}|{other}", asked, again, label)


def glosses(net: WordNet) -> Iterator[Row]:
    """QNLI's form: a question and WordNet's definition of that word (1), or of an unrelated word of the same
    lexicographer's field (0)."""
    for synset in _ordered("glosses", [s for s in net.synsets.values() if s.counts and s.kind in "nv"]):
        if not common(synset):
            continue
        word = common(synset)[0]
        label = digest("glosses", "label", synset.key) % 2
        source, key = synset, word
        if not label:
            mates, start = net.fields[synset.field_number + synset.kind], digest("mate", synset.key)
            tried = [mates[(start + i) % len(mates)] for i in range(12)]
            fit = [m for m in tried if split_of(word, m.words[0]) and not net.related(word, m.words[0])]
            if not fit:
                continue
            source = fit[0]
            key = f"{word}|{source.words[0].lower()}"
        if _short(source.gloss, 4, 14):
            asked = f"What is {article(word)}?" if synset.kind == "n" else f"What does it mean to {word}?"
            yield Row(key, asked, source.gloss, label)


def hypernyms(net: WordNet) -> Iterator[Row]:
    """RTE's form: a definition as premise; that the word is a kind of its hypernym (1, one to three levels up), or of
    what another meaning's hypernym is (0)."""
    nouns = [s for s in net.synsets.values() if s.counts and s.kind == "n"]
    for synset in _ordered("hypernyms", nouns):
        up = net.above(synset.key)
        if not common(synset) or len(up) < 5 or not _short(synset.gloss, 4, 12):
            continue
        word = common(synset)[0]
        label = digest("hypernyms", "label", synset.key) % 2
        if label:
            target = net.synsets[up[digest("level", synset.key) % 3]]
        else:
            other = nouns[digest("other", synset.key) % len(nouns)]
            higher = net.above(other.key)
            if len(higher) < 5:
                continue
            target = net.synsets[higher[digest("level", synset.key) % 3]]
            if target.key in net.all_above(synset.key) or synset.key in net.all_above(target.key):
                continue
        name = target.words[0].lower()
        if re.fullmatch(r"[a-z ]+", name) and name != word and not re.search(rf"\b{name}\b", synset.gloss):
            yield Row(
                f"{word}",
                f"{article(word).capitalize()}: {synset.gloss}.",
                f"{article(word).capitalize()} is a kind of {name}.",
                label,
            )


TASKS: dict[str, Callable[[WordNet], Iterator[Row]]] = {
    "Acceptability": acceptability,
    "SynonymParaphrase": paraphrase,
    "QuestionPairs": questions,
    "QuestionGloss": glosses,
    "HypernymEntailment": hypernyms,
}


def build(folder: str | Path, sizes: dict[str, int]) -> dict[str, dict[str, list[Row]]]:
    """`{task: {split: rows}}` with `sizes` rows a split, as many of either label. Raises ValueError where too few."""
    net = WordNet(read_wordnet(folder))
    return {task: balanced(task, rows(net), sizes) for task, rows in TASKS.items()}


def balanced(task: str, rows: Iterable[Row], sizes: dict[str, int], classes: int = 2) -> dict[str, list[Row]]:
    """`{split: rows}`: the first of them whose headwords lie in one split, each text once, as many of every class.

    Raises ValueError where there are too few.
    """
    examples: dict[str, dict[int, list[Row]]] = {split: {label: [] for label in range(classes)} for split in sizes}
    seen = set()
    for row in rows:
        split = split_of(*row.key.split("|"))
        text = (row.a.lower(), row.b.lower())
        if split is None or text in seen:
            continue
        seen.add(text)
        if len(examples[split][row.label]) < sizes[split] // classes:
            examples[split][row.label].append(row)
    for split, parts in examples.items():
        short = {label: len(part) for label, part in parts.items() if len(part) < sizes[split] // classes}
        if short:
            raise ValueError(f"{task}, {split}: rows by label {short}, {sizes[split] // classes} of each are wanted")
    return {
        split: sorted(sum(parts.values(), []), key=lambda r: digest("row", r.a, r.b))
        for split, parts in examples.items()
    }
