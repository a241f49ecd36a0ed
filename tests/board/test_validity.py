"""How well a suite's ranking predicts the published one: which rows count, in which class, and what boards say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.records import make_record, make_spec

from benchmark import suites
from benchmark.board import leaderboard, rows, validity
from benchmark.board.tracks import REFERENCE as REFERENCE_TRACK
from benchmark.board.tracks import TRAINING, track_of
from benchmark.cli.main import main
from benchmark.common.project import REFERENCE, ROOT
from benchmark.records.record import Cost, Record
from benchmark.records.store import Store
from benchmark.scores import published
from benchmark.scores.agreement import agreement

PUBLISHED = {"ties": 72.4, "tsv_m": 84.7, "wudi": 85.2, "fisher": 68.3, "regmean": 71.8, "emr": 88.7}


def run(method: str, accuracy: float, *, storage: int = 0, **fields: Any) -> Record:
    cost = Cost(model_bytes=4_000_000, storage_bytes=storage)
    spec = make_spec(method, fields.pop("seed", None))
    return make_record(method, accuracy=accuracy, spec=spec, n=4000, cost=cost, **fields)


def board(turned: bool = False) -> list[Record]:
    """A ranking that is the published one, or it upside down; and reference rows."""
    ordered = sorted(PUBLISHED, key=lambda name: PUBLISHED[name], reverse=turned)
    records = [run(name, 0.3 + 0.1 * place) for place, name in enumerate(ordered)]
    return [run("pretrained", 0.2), run("individual", 0.95), *records]


def of(records: list[Record]) -> validity.Validity:
    result = validity.validity(records)
    assert result is not None
    return result


def test_the_published_ranking_is_predicted_wholly_and_its_reverse_not_at_all() -> None:
    for turned, value in ((False, 1.0), (True, 0.0)):
        result = of(board(turned)).agreements[validity.ALL]
        assert result.methods == sorted(PUBLISHED), "reference rows are no methods"
        assert result.decision.value == value and result.tau.value == pytest.approx(2 * value - 1)
        gaps = [abs(PUBLISHED[pair.first] - PUBLISHED[pair.second]) for pair in result.pairs]
        assert len(gaps) == 13 and min(gaps) >= 3.0


def test_rows_that_a_suite_was_chosen_by_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    load = suites.load("vision-mini-8")
    assert load.predicts is not None
    changed = load.model_copy(update={"predicts": load.predicts.model_copy(update={"chosen_on": ["ties"]})})
    monkeypatch.setattr(suites, "load", lambda name: changed)
    assert "ties" not in of(board()).agreements[validity.ALL].methods


def test_the_committed_small_suites_leave_out_what_they_were_chosen_by() -> None:
    for name in ("vision-small-8", "vision-small-14", "vision-small-20"):
        target = suites.load(name).predicts
        assert target is not None and set(target.chosen_on) == {"weight_average", "task_arithmetic"}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (run("ties", 0.5), validity.NO_TEST),
        (run("regmean", 0.5, access=["unlabelled train"]), validity.NO_TEST),
        (run("iso_c", 0.5, access=["labelled val"]), validity.NO_TEST),
        (run("joint", 0.5, access=["labelled train"]), validity.LABELS),
        (run("joint", 0.5, access=["labelled train"], storage=400_000), validity.LABELS),
        (run("symerge", 0.5, seed=0, access=["labelled test"]), validity.LABELS),
        (run("symerge", 0.5, seed=0, access=["unlabelled test"]), validity.TEST),
        (run("surgery", 0.5, seed=0, access=["unlabelled test"], storage=400_000), validity.EXTRA),
        (run("emr", 0.5, needs_task_id=True), validity.EXTRA),
        (run("adamerging", 0.5, seed=0, access=["unlabelled test"], storage=2_000), validity.TEST),
    ],
)  # fmt: skip
def test_methods_are_judged_among_their_like(record: Record, kind: str) -> None:
    assert validity.class_of(record) == kind


def test_the_tracks_that_a_class_is_warned_by_are_those_of_its_rows() -> None:
    for record in Store(REFERENCE, read_only=True).all("vision-small-8"):
        if (track := track_of([record])) not in (REFERENCE_TRACK, TRAINING):
            assert track in validity.CLASSES[validity.class_of(record)], record.variant


def test_a_class_holds_its_own_pairs_only_and_all_holds_those_between_classes() -> None:
    records = board()
    emr = next(r for r in records if r.spec.method == "emr")
    records[records.index(emr)] = emr.model_copy(update={"needs_task_id": True})
    result = of(records)
    assert "emr" not in result.agreements[validity.NO_TEST].methods
    assert result.agreements[validity.EXTRA].methods == ["emr"] and not result.agreements[validity.EXTRA].pairs
    assert any("emr" in pair[:2] for pair in result.agreements[validity.ALL].pairs)


def test_halves_are_set_by_the_names_alone_and_make_the_whole() -> None:
    halves = of(board()).halves
    names = [name for each in halves.values() for name in each.methods]
    assert sorted(names) == sorted(PUBLISHED) and all(
        validity.half_of(name) == half for half, each in halves.items() for name in each.methods
    )
    assert validity.half_of("ties") != validity.half_of("wudi"), "first bits of their SHA-256"


def test_the_ceiling_is_another_published_table_of_the_same_methods() -> None:
    ceiling = of(board()).ceiling[validity.ALL]
    first = published.tables("vision-8", "ViT-B-32", ["task-arithmetic"])[0]
    second = published.tables("vision-8", "ViT-L-14", ["task-arithmetic"])[0]
    names = sorted(PUBLISHED.keys() & second.keys())
    expected = agreement({name: [second[name]] for name in names}, [first])
    assert ceiling.methods == names and ceiling.decision.value == pytest.approx(expected.decision.value)


def test_a_suite_that_predicts_nothing_has_no_validity() -> None:
    record = make_record("ties", spec=make_spec("ties", suite="vision-8"))
    assert suites.load("vision-8").predicts is None and validity.validity([record]) is None
    assert validity.validity([]) is None
    gone = make_record("ties", spec=make_spec("ties", suite="a-suite-that-is-gone"))
    assert validity.validity([gone]) is None


def test_a_board_without_two_published_methods_tells_nothing_of_its_ranking() -> None:
    few = [r for r in Store(REFERENCE, read_only=True).all("vision-small-8") if r.variant in ("ties", "individual")]
    (board,) = rows.boards(few)
    assert board.validity is None and "published one" not in leaderboard.markdown(board)


def test_a_board_says_how_well_it_predicts_and_warns_where_it_does_not() -> None:
    (good,), (bad,) = rows.boards(board()), rows.boards(board(turned=True))
    text = leaderboard.markdown(good)
    assert "of 13 pairs of methods at least 3 points apart there, 1.00 (0.61 to 1.00) stand the same way round" in text
    assert "Draw no conclusions" not in text
    assert "- Protocol: Every adapting method draws 3,200 images a task" in text
    assert (
        "**Draw no conclusions about full scale for**: Data-free and With training or validation data (0.00 of 13 "
        "pairs); all methods (0.00 of 13 pairs)."
    ) in leaderboard.markdown(bad)


def test_sources_that_do_not_say_whose_experts_are_tables_of_their_own() -> None:
    tables = published.tables("nyuv2", "ResNet-50", ["fusionbench", ""], "segmentation")
    assert tables[0] == {"task_arithmetic": 33.6, "ties": 36.3, "weight_average": 39.0}
    assert any({"emr", "symerge"} <= table.keys() for table in tables[1:])
    assert not any({"symerge", "ties"} <= table.keys() for table in tables), "no two sources in one table"


def test_the_command_prints_the_classes_where_it_errs_and_the_signal(tmp_path, capsys, monkeypatch) -> None:
    store = Store(tmp_path)
    records = board(turned=True)
    records += [run("adamerging", 0.5 + 0.01 * seed, seed=seed, access=["unlabelled test"]) for seed in range(3)]
    for record in records:
        store.save(record)
    assert main(["validity", "vision-mini-8", "--family", "project", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("vision-mini-8 against vision-8 on ViT-B-32")
    assert "| no test data" in said and "| all methods, second half" in said
    assert "  emr is published 20.4 points above fisher, measured" in said
    assert re.search(r"With whom.*:\n  \w+: \d+ of its \d+ pairs; decision accuracy of the \d+ pairs left \d", said)
    assert "Signal to noise" in said and "Draw no conclusions" in said


@pytest.mark.parametrize(
    ("words", "said", "mend"),
    [
        (["vision-8"], "vision-8 is held against no published ranking", "vision-small-8"),
        (["vision-mini-88"], "vision-mini-88", "vision-mini-8"),
        (["glue-mini"], "no finished run of glue-mini on MiniLM-L6", "./run_all.sh --suite glue-mini"),
    ],
)
def test_the_command_says_what_to_type_where_there_is_nothing_to_tell(tmp_path, capsys, words, said, mend) -> None:
    assert main(["validity", *words, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and mend in error


def test_the_readme_quotes_what_the_committed_records_say() -> None:
    result = of(Store(REFERENCE, read_only=True).all("vision-small-8"))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for kind in (validity.NO_TEST, validity.ALL):
        # Another processor may round the last digit the other way.
        low, high = (round(value, 2) for value in result.agreements[kind].decision[1:])
        quoted = re.search(rf"{result.agreements[kind].decision.value:.2f} \(([\d.]+) to ([\d.]+)\)", text)
        assert quoted, f"README.md does not quote {validity.shown(result.agreements[kind].decision)} of {kind}"
        assert (float(quoted[1]), float(quoted[2])) == pytest.approx((low, high), abs=0.011)
    over_all = result.agreements[validity.ALL]
    four = over_all.blame[:4]
    assert f"{sum(each.wrong for each in four)} of the {len(over_all.errors)} errors" in text
    assert {each.method.partition(":")[0] for each in four} == {"adarank", "adamerging", "wemoe", "localize_stitch"}
