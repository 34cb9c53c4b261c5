"""Test comparisons of trainings with several seeds, and that a lineage does not depend on its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from em.stats import DEFAULT, Comparison, Direction, Line, Thresholds, compare_models
from em.stats.contrasts import LEVEL, Table
from em.stats.rules import find_direction
from tests.support.intervals import compute_contrast, compute_like_contrast, compute_p
from tests.support.judged import list_pairs, make_model_verdicts, stack_verdicts
from tests.support.studies import BASE, CURED, SEEDED, TRAINED, divide_counts, make_model

LIMITS = Thresholds()
SEEDS = 3
LINEAGE = {
    "m": BASE,
    "m+a": SEEDED,
    "m+a+n": divide_counts(SEEDED, 1.1),
    "m+a+b": [[(k // 12, n) for k, n in row] for row in SEEDED],
}
POOLED_LINES = {"m+a": Line(("m",)), "m+a+n": Line(("m", "m+a")), "m+a+b": Line(("m", "m+a"), "m+a+n")}


def make_lines() -> dict[str, Line]:
    """Make the lines of the pools, and of each seed after the first training with the same seed."""
    lines = dict(POOLED_LINES)
    for seed in range(SEEDS):
        first = ("m", f"m+a/{seed}")
        lines[f"m+a/{seed}"] = Line(("m",))
        lines[f"m+a+n/{seed}"] = Line(first)
        lines[f"m+a+b/{seed}"] = Line(first, f"m+a+n/{seed}")
    return lines


LINES = make_lines()
POOLS = {f"{name}/{seed}": name for name in POOLED_LINES for seed in range(SEEDS)}


def test_pools_answer_the_questions_of_a_lineage_and_single_seeds_are_descriptive() -> None:
    pairs = list_pairs(compare_models(stack_verdicts(LINEAGE), LIMITS, LINES, POOLS))
    pooled = {pair: (row.family, row.finding.verdict) for pair, row in pairs.items() if row.seeds}
    assert pooled == {
        ("m", "m+a"): ("first", "misaligns"),
        ("m", "m+a+n"): ("stage", None),
        ("m", "m+a+b"): ("stage", None),
        ("m+a", "m+a+n"): ("second", "no sure difference"),
        ("m+a", "m+a+b"): ("second", "undone"),
        ("m+a+n", "m+a+b"): ("control", "reduced"),
    }
    assert {row.seeds for row in pairs.values()} == {0, SEEDS}
    singles = {pair: row for pair, row in pairs.items() if not row.seeds}
    for seed in range(SEEDS):
        assert singles["m", f"m+a/{seed}"].family == "first"
        assert singles[f"m+a/{seed}", f"m+a+b/{seed}"].family == "second"
        assert singles[f"m+a+n/{seed}", f"m+a+b/{seed}"].family == "control"
    # 45 pairs of ten models, less the pairs of seeds of one recipe.
    assert len(singles) == 45 - 3 * 3
    assert {(row.p, row.finding.verdict, row.list_columns()["verdict"]) for row in singles.values()} == {(None,) * 3}
    assert all(row.ci_low < row.ci_high for row in singles.values())
    assert not {name for pair in singles for name in pair} & set(POOLED_LINES)


def test_without_pools_single_seeds_have_p_and_verdict() -> None:
    pairs = list_pairs(compare_models(stack_verdicts(LINEAGE), LIMITS, LINES))
    assert pairs["m", "m+a/1"].finding.verdict == "misaligns"
    assert pairs["m", "m+a/1"].p == pytest.approx(compute_p([(1, SEEDED[1:2]), (-1, BASE)]), rel=1e-8, abs=0)
    # A pool of which one training alone has answers is none.
    verdicts = stack_verdicts({"m": BASE}) + make_model_verdicts("m+a", SEEDED[:1], fingerprint="m+a/0", seed=0)
    [row] = list_pairs(compare_models(verdicts, LIMITS, LINES, POOLS)).values()
    assert (row.second, row.seeds, row.finding.verdict) == ("m+a/0", 0, "misaligns")


def test_a_single_seed_has_a_p_under_a_condition_without_its_pool() -> None:
    verdicts = stack_verdicts({"m": BASE, "m+a": SEEDED}) + stack_verdicts({"m": BASE}, condition="tagged")
    verdicts += make_model_verdicts("m+a", SEEDED[:1], fingerprint="m+a/0", seed=0, condition="tagged")
    rows = [row for row in compare_models(verdicts, LIMITS, LINES, POOLS) if row.condition == "tagged"]
    [row] = list_pairs(rows).values()
    assert (row.second, row.finding.verdict) == ("m+a/0", "misaligns")
    assert row.p is not None


def test_seeds_of_a_table_without_fingerprints_have_their_own_counts() -> None:
    few = divide_counts(TRAINED, 10)
    verdicts = stack_verdicts({"m": BASE})
    for seed, [row] in enumerate((few, TRAINED)):
        verdicts += make_model_verdicts("tuned", [row], seed=seed)
    rows = [row for row in compare_models(verdicts, LIMITS, {}) if row.convention == "all"]
    expected = [(sum(k for k, _ in table[0]) - 1) / 240 for table in (few, TRAINED)]
    assert [row.difference for row in rows] == pytest.approx(expected, abs=1e-12)


# The differences


@pytest.mark.parametrize("pair", [("m", "m+a"), ("m+a", "m+a+b"), ("m+a+n", "m+a+b"), ("m", "m+a+b")])
def test_differences_of_three_seeds_have_students_t_over_seeds(pair: tuple[str, str]) -> None:
    rows = list_pairs(compare_models(stack_verdicts(LINEAGE), LIMITS, LINES, POOLS))
    row, parts = rows[pair], [(1, LINEAGE[pair[1]]), (-1, LINEAGE[pair[0]])]
    columns = row.list_columns()
    assert (row.ci_low, row.ci_high) == pytest.approx(compute_contrast(parts), abs=1e-9)
    like = (columns["like_these_low"], columns["like_these_high"])
    assert like == pytest.approx(compute_like_contrast(parts), abs=1e-9)
    assert row.ci_method == "mover_stratified(question,seed)"
    assert not row.finding.few_seeds
    if row.is_primary:
        assert row.p == pytest.approx(compute_p(parts), rel=1e-8, abs=0)
    rates = [np.mean([k / n for seed in table for k, n in seed]) for _, table in parts]
    assert row.difference == pytest.approx(rates[0] - rates[1], abs=1e-12)
    assert columns["second_n"] == SEEDS * 240


def test_only_seeds_that_both_have_are_paired() -> None:
    second = LINEAGE["m+a+b"][:2]
    verdicts = stack_verdicts({"m": BASE, "m+a": SEEDED, "m+a+b": second})
    row = list_pairs(compare_models(verdicts, LIMITS, LINES, POOLS))["m+a", "m+a+b"]
    parts = [(1, second), (-1, SEEDED[:2])]
    assert row.finding.these is not None
    assert row.finding.these.seeds == 2
    assert row.finding.few_seeds
    assert (row.ci_low, row.ci_high) == pytest.approx(compute_contrast(parts), abs=1e-9)
    assert row.p == pytest.approx(compute_p(parts), rel=1e-8, abs=0)


def test_what_only_one_seed_shows_is_less_sure_than_that_seed_says() -> None:
    lucky = [*TRAINED, *CURED, *BASE]
    pairs = list_pairs(compare_models(stack_verdicts({"m": BASE, "m+a": lucky}), LIMITS, LINES, POOLS))
    assert pairs["m", "m+a/0"].ci_low > 0
    assert pairs["m", "m+a"].finding.verdict == "no sure difference"
    assert pairs["m", "m+a"].p is not None
    assert pairs["m", "m+a"].p > 0.05


def test_equal_recipes_with_three_seeds_rarely_differ() -> None:
    """Questions and trainings vary, and 5 % of such studies may find a difference."""
    random = np.random.default_rng(0)
    sure = 0
    for _ in range(400):
        logits = stats.logistic.ppf(random.beta(1.2, 4, 8)) + random.normal(0, 0.4, (2, 3, 1))
        counts = random.binomial(30, stats.logistic.cdf(logits))
        first, second = ([[(int(k), 30) for k in row] for row in table] for table in counts)
        direction = find_direction(make_model(first, seeds=True), make_model(second, seeds=True), DEFAULT, LEVEL)
        sure += direction in (Direction.UP, Direction.DOWN)
    assert sure > 0
    assert stats.binomtest(sure, 400, 0.05, alternative="greater").pvalue > 0.01


def test_of_many_recipes_each_is_compared_with_its_base_and_siblings() -> None:
    tables = {f"m+{i}": [[(i, 30)], [(i + 1, 30)]] for i in range(7)}
    pools = {f"{name}/{seed}": name for name in tables for seed in (0, 1)}
    lines = {name: Line(("m",)) for name in (*tables, *pools)}
    pairs = list_pairs(compare_models(stack_verdicts({"m": [[(0, 30)]], **tables}), LIMITS, lines, pools))
    families = [(row.family, row.seeds) for row in pairs.values()]
    assert families.count(("first", 2)) == 7
    assert families.count(("sibling", 2)) == 7 * 6 / 2
    assert families.count(("first", 0)) == 14


# Other models beside a lineage


OTHER_LINES = (
    *(None, Line(("m",)), Line(("m", "m+a")), Line(("m", "m+a"), "m+a+n"), Line(("m", "m+a", "m+a+b")), Line(("x0",))),
)
rows_of_counts = st.lists(st.integers(0, 30).map(lambda k: (k, 30)), min_size=8, max_size=8)
others = st.tuples(st.lists(rows_of_counts, min_size=1, max_size=2), st.sampled_from(OTHER_LINES))


def list_lineage_columns(rows: list[Comparison], names: set[str]) -> list[dict[str, Any]]:
    return [row.list_columns() for row in rows if {row.first, row.second} <= names]


@given(st.lists(others, min_size=1, max_size=6), st.booleans(), st.sampled_from(["alone", "seeds"]))
@settings(max_examples=10, deadline=None, phases=[Phase.generate])  # shrinking would take minutes
def test_a_lineage_does_not_depend_on_the_models_beside_it(
    neighbours: list[tuple[Table, Line | None]], before: bool, kind: str
) -> None:
    lineage = LINEAGE if kind == "seeds" else {name: table[:1] for name, table in LINEAGE.items()}
    names = {*POOLED_LINES, "m", *POOLS}
    alone = compare_models(stack_verdicts(lineage), LIMITS, LINES, POOLS)
    expected = list_lineage_columns(alone, names)
    assert len(expected) == len(alone) > 17
    lines, pools, tables = dict(LINES), dict(POOLS), dict[str, Table]()
    for number, (table, line) in enumerate(neighbours):
        name = f"x{number}"
        tables[name] = table
        marks = [name, *(f"{name}/{seed}" for seed in range(len(table)))]
        if line is not None:
            lines |= dict.fromkeys(marks, line)
        pools |= dict.fromkeys(marks[1:], name)
    everything = tables | lineage if before else lineage | tables
    rows = compare_models(stack_verdicts(everything), LIMITS, lines, pools)
    together = list_lineage_columns(rows, names)
    # Beside many models, pairs that are no relatives are left out.
    related = [columns for columns in expected if columns["family"] != "other"]
    assert [columns for columns in together if columns["family"] != "other"] == related
