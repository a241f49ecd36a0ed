"""Unlabelled texts of each task, and the encoder and heads that read them, for methods that adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.checkpoints.alignment import Aligned, align
from benchmark.checkpoints.models import Model
from benchmark.common.errors import UserError, shown
from benchmark.domains.text.encoders import TextRows, open_text_encoder, text_head
from benchmark.merging.data import Sight, to_float
from benchmark.merging.given import Given

#: What a column of texts is called where the user does not say it.
COLUMNS = ("text", "sentence", "content", "review", "question")
READERS = ".txt (a text a line), .csv, .tsv, .jsonl or .parquet"


def look(base: Model, paths: Mapping[str, Path], given: Given, heads: Sequence[str] = ()) -> tuple[Aligned, Sight]:
    """Align the experts and open encoder, heads and texts; as :func:`benchmark.merging.data.look` does of images.

    Raises:
        UserError: no text encoder, a file or column that is not there. FamilyError: see :func:`align`.
    """
    if unknown := [task for task in given.texts if task not in paths]:
        raise UserError(f"--texts names {unknown[0]!r}, of which there is no expert", f"Experts: {', '.join(paths)}")
    if base.folder is None:
        raise UserError(f"{shown(base.path)} is a file", "Texts need its folder, with config.json and tokenizer.")
    shapes = base.state.shapes
    encoder = open_text_encoder(base.folder, shapes)
    own = [head for head in encoder.heads if any(name.startswith(f"{head}.") for name in shapes)]
    aligned = align(base, paths, [*heads, *own], lambda: encoder.library_names)
    state = {name: to_float(base.state[name]) for name in encoder.module.state_dict()}
    encoder.module.load_state_dict(state)
    found = {
        task: text_head(base.folder, expert.path, expert.own, encoder.heads) for task, expert in aligned.experts.items()
    }
    sources = {
        task: TextRows(read_texts(place, column), encoder.tokenizer) for task, (place, column) in given.texts.items()
    }
    return aligned, Sight(
        encoder.module,
        {task: head for task, (head, _) in found.items()},
        {task: name for task, (_, name) in found.items()},
        sources,
        (),
        [],
    )


def read_texts(place: Path, column: str) -> list[str | tuple[str, str]]:
    """The texts of a file; pairs where ``column`` names two, ``first+second``.

    Raises :class:`UserError` for a file of another kind, without the column, or without texts.
    """
    if not place.is_file():
        raise UserError(f"there is no file {shown(place)}", f"Give one of {READERS}.")
    if place.suffix == ".txt":
        lines = [line for line in place.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{shown(place)} holds no text", "Write one a line.")
        return list(lines)
    table = _table(place)
    names = column.split("+") if column else [next((n for n in COLUMNS if n in table.columns), "")]
    if absent := [name for name in names if name not in table.columns]:
        raise UserError(
            f"{shown(place)} has no column {absent[0] or 'of texts'!r}; it has {', '.join(map(str, table.columns))}",
            f"Write FILE:COLUMN, or FILE:FIRST+SECOND for pairs, e.g. {place.name}:{table.columns[0]}",
        )
    rows = table[names].dropna().astype(str)
    if rows.empty or len(names) > 2:
        raise UserError(f"{shown(place)} holds no text under {column or names[0]}", "One or two columns are read.")
    return [row[0] if len(names) == 1 else (row[0], row[1]) for row in rows.itertuples(index=False, name=None)]


def _table(place: Path):  # type: ignore[no-untyped-def]
    import pandas as pd

    try:
        if place.suffix in (".csv", ".tsv"):
            return pd.read_csv(place, sep="\t" if place.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
        if place.suffix == ".jsonl":
            return pd.read_json(place, lines=True, dtype=False)
        if place.suffix == ".parquet":
            return pd.read_parquet(place)
    except Exception as error:  # whatever a reader meets in a foreign file
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{shown(place)} cannot be read: {said}", f"Give one of {READERS}.") from None
    raise UserError(f"{shown(place)} is of no kind that is read", f"Give one of {READERS}.")
