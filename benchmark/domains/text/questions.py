"""The questions of `llm-small`: what a chat model is asked, and the options of which it must find one most likely.

A question stands in the base's own chat format, whose next token begins the answer. Every option is one token, so the
likelihood of an answer is that of the next token, and the rows of the model's output table that belong to a task's
options are the task's head: the answer is scored over the answer's token alone, in one pass over the question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.common.errors import UserError
from benchmark.common.project import ROOT
from benchmark.domains.text import embedded
from benchmark.domains.text.heads import LinearHead
from benchmark.domains.text.tokens import Tokens, cached, tokenise, tokenizer_sha256

FOLDER = ROOT / "benchmark" / "data" / "small" / "questions"
#: The output table of the base, which is that of its embeddings.
TABLE = "model.embed_tokens.weight"
SYSTEM = "Answer with one word."
#: Tokens of the longest question in its format, which none exceeds: nothing is cut.
LONGEST = 80


def info(task: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The manifest's entry of one task: its options (`classes`), splits and where labels come from."""
    return embedded.info(task, folder)


def asked(tokenizer: Any, question: str) -> str:
    """The question in the chat format, up to where the answer begins."""
    said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    text: str = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return text


def options(tokenizer: Any, task: str, folder: Path = FOLDER) -> list[int]:
    """The token of each option. Raises :class:`UserError` where one is not a single token."""
    classes: Sequence[str] = info(task, folder)["classes"]
    coded = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in classes]
    if any(len(ids) != 1 for ids in coded):
        raise _other_tokenizer(f"{task}: not every option is one token")
    return [ids[0] for ids in coded]


def head_of(table: Tensor, tokens: Sequence[int]) -> LinearHead:
    """The likelihoods of these tokens: rows of the output table `[V, D]`, no bias."""
    rows = table[list(tokens)].float()
    return LinearHead.of({"weight": rows, "bias": rows.new_zeros(len(rows))})


def tokens_of(task: str, split: str, tokenizer: Any, folder: Path = FOLDER) -> Tokens:
    """One split's questions in their format, tokenised, from the cache where they are there.

    Raises :class:`UserError` where the tokenizer is another one than the suite's.
    """
    about = info(task, folder)["splits"][split]
    key = {
        "questions": about["sha256"],
        "tokenizer": tokenizer_sha256(tokenizer),
        "format": asked(tokenizer, "?"),
        "longest": LONGEST,
    }

    def make() -> Tokens:
        rows = embedded.load(task, split, folder)
        texts = replace(rows, first=[asked(tokenizer, question) for question in rows.first])
        return tokenise(tokenizer, texts, LONGEST, classes=len(info(task, folder)["classes"]))

    tokens = cached(f"{task}-{split}", key, make)
    if "tokens" in about and tokens_sha256(tokens) != about["tokens"]:
        raise _other_tokenizer(f"{task}, {split}: the questions' tokens are not those of the manifest")
    return tokens


def tokens_sha256(tokens: Tokens) -> str:
    """Hash of what the model reads: the ids of all rows, and where each begins."""
    digest = hashlib.sha256(tokens.ids.numpy().astype("<i4").tobytes())
    digest.update(tokens.offsets.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _other_tokenizer(what: str) -> UserError:
    return UserError(what, "The tokenizer is another one: delete the base's folder in the cache, and try again")
