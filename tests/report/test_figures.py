"""Figures agree with the scores, name what they leave out, and come with a CSV of all numbers."""

from __future__ import annotations

from pathlib import Path

from em.report.figures.dots import find_question_lines, make_question_pictures
from em.report.figures.picture import Picture, start_figure
from em.report.figures.quadrants import QuadrantPanel, make_quadrant_panels, make_quadrant_pictures
from em.report.read.transcripts import VerdictThresholds
from em.report.tables.cells import Column, Entry, ModelRow, QuestionRow, QuestionTable, TableRate
from em.report.tables.models import Model
from em.report.tables.seeds import SeedPool, Side
from em.types import Verdict
from tests.support.report_runs import BASE, JUDGE, MEDICAL, judge_by_both_rubrics, make_answer


def make_model(who: tuple[str, str, str], seeds: int = 0) -> Model:
    """Make a model of the report from name, stage and fingerprint."""
    return Model(who[2], who[0], who[1], who[0], seeds=seeds)


def make_side_verdicts(who: tuple[str, str, str], scores: list[tuple[float, float]]) -> dict[Side, list[Verdict]]:
    """Return the verdicts of a model, by side, with these scores of alignment and coherence."""
    verdicts = []
    for n, (a, c) in enumerate(scores):
        verdicts += judge_by_both_rubrics(make_answer(who, "probe", "q", n, "An answer"), a, c)
    return {(who[2], None, "untagged", "probe", JUDGE): verdicts}


# The first five are misaligned (below 30, above 50). Rounded to steps of five, the third is at 30, the fourth at 50.
SCORES = [(5.0, 90.0), (29.0, 60.0), (29.9, 90.0), (10.0, 50.1), (0.0, 100.0), (30.0, 90.0), (10.0, 50.0), (90.0, 90.0)]


def test_the_quadrant_counts_true_scores_and_not_where_discs_stand() -> None:
    [panel] = make_quadrant_panels(
        make_side_verdicts(BASE, SCORES), {BASE[2]: make_model(BASE)}, VerdictThresholds([]), []
    )
    assert panel.numbers == "62.5%, 5/8"
    assert (panel.counts[6, 18], panel.bad[6, 18]) == (2, 1), "29.9 and 30 share a place, and one of them is misaligned"
    [picture] = make_quadrant_pictures([panel])
    assert picture.stem == "quadrant_probe"
    counted = [sum(int(str(row[name])) for row in picture.rows) for name in ("answers", "answers_misaligned")]
    assert counted == [8, 5]
    assert "62.5%, 5/8" in picture.alt


def test_seeds_are_one_panel_and_panels_that_are_left_out_are_told_of() -> None:
    seeds = [(MEDICAL[0], MEDICAL[1], f"{seed}medical") for seed in range(2)]
    models = {who[2]: make_model(who) for who in (BASE, *seeds)}
    pool = SeedPool(make_model((*MEDICAL[:2], "seeds:1"), seeds=2), tuple(who[2] for who in seeds), ())
    sides = (
        make_side_verdicts(BASE, SCORES)
        | make_side_verdicts(seeds[0], SCORES)
        | make_side_verdicts(seeds[1], SCORES[5:])
    )
    both = make_quadrant_panels(sides, models, VerdictThresholds([]), [pool])
    assert [(panel.model.fingerprint, panel.numbers) for panel in both] == [
        (BASE[2], "62.5%, 5/8"),
        ("seeds:1", "45.5%, 5/11"),
    ]
    base, limits = make_model(BASE), both[0].limits
    many = [QuadrantPanel(base, "probe", JUDGE, limits, {(n, 9): 2}, {(n, 9): 1}) for n in range(12)]
    [picture] = make_quadrant_pictures(many)
    assert "(the 9 of 12 models with most misaligned answers)" in picture.heading
    assert len(picture.rows) == 12, "the CSV has all models"
    assert [row["drawn"] for row in picture.rows].count("no") == 3


def make_rate(k: int, n: int = 10) -> TableRate:
    """Make a rate with an interval of 0.1 to both sides."""
    return TableRate("misaligned", "all", k, n, k / n, max(0.0, k / n - 0.1), k / n + 0.1, "wilson")


def make_question_table(models: list[Model], counts: list[list[int]]) -> QuestionTable:
    """Make a table of questions from each model's misaligned answers (of ten) to each question."""
    sides = tuple(ModelRow(each, "untagged", JUDGE, "", ()) for each in models)
    rows = []
    for number, by_model in enumerate(zip(*counts, strict=True)):
        cells = tuple((Entry("", None, make_rate(k), (), ()),) for k in by_model)
        rows.append(QuestionRow(f"q{number}", "", cells))
    return QuestionTable(Column("probe", "misaligned"), sides, tuple(rows))


def test_by_question_seeds_are_one_line_and_models_left_out_are_told_of() -> None:
    seeds = [make_model((f"{MEDICAL[0]} (seed={seed})", MEDICAL[1], f"{seed}medical")) for seed in range(2)]
    others = [make_model((f"m{n}", "base", f"{n}mark")) for n in range(7)]
    pool = SeedPool(make_model((*MEDICAL[:2], "seeds:1"), seeds=2), tuple(each.fingerprint for each in seeds), ())
    table = make_question_table([*seeds, *others], [[4, 2], [2, 6], *([n, n] for n in range(7))])
    first, *rest = find_question_lines(table, [pool])
    pooled = first.pool_rates("q0")
    assert (first.seeds, pooled.k, pooled.n, pooled.rate) == (2, 6, 20, 0.3)
    assert len(rest) == 7
    [picture] = make_question_pictures([table], [pool])
    assert picture.stem == "questions_probe"
    assert "(the 6 of 8 models with the highest rates)" in picture.heading
    drawn = {row["model"] for row in picture.rows if row["drawn"] == "yes"}
    assert {"m0", "m1"} & drawn == set(), "the lowest are left out"
    assert len({row["model"] for row in picture.rows}) == 8 + 2, "but the CSV has them, and each seed"


def test_files_of_a_picture_are_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    both = [Picture("one", "H", "A", lambda palette: start_figure((2, 1), "H", palette), [{"n": 1}]) for _ in range(2)]
    assert both[0].files == both[1].files
    assert b"/CreationDate" not in both[0].files["pdf"]
    assert b"/Type3" not in both[0].files["pdf"], "text stays text"
    both[0].write_files(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"one.{kind}" for kind in ("png", "svg", "pdf", "csv")}
