"""Reports of judged tables: lineages by names and by `--base`, seeds, and the options of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from em.cli.report import main
from em.report import TableOptions, build_report
from em.report.read.runs import read_runs
from em.report.tables.lineages import LineageSet, find_lineages
from em.report.tables.models import name_models
from tests.support.judged_tables import make_rows, write_models, write_rows
from tests.support.report_panel import read_section
from tests.support.report_runs import (
    BASE,
    make_spread_verdicts,
    read_csv_file,
    read_page_data,
    read_report_page,
    write_judged,
)


def list_lineages(paths: Sequence[Path], base: str = "") -> tuple[list[list[str]], LineageSet]:
    """Return the lineages of judged tables as lists of names, and all that is found about them."""
    runs = read_runs(paths, options=TableOptions(base=base))
    family = find_lineages(runs, name_models(runs), [])
    return [[model.label for model in line.models] for line in family.lineages], family


CHAIN = {"m": [0, 1, 0, 0], "m+a": [9, 8, 9, 7], "m+a+b": [0, 0, 1, 1], "m+a+neutral": [7, 8, 6, 7]}


@pytest.mark.parametrize(
    ("names", "base", "lineages"),
    [
        (["m", "m+a", "m+a+b"], "", [["m", "m+a"], ["m", "m+a", "m+a+b"]]),
        (["m+a+b", "m+a", "m"], "", [["m", "m+a", "m+a+b"], ["m", "m+a"]]),
        (["m", "m+a+b"], "", [["m", "m+a+b"]]),
        (["m+a", "m+a+b"], "", []),
        (["m+a", "m+a+b", "n"], "n", []),
        (["m+a", "m+a+b", "x"], "m+a", [["m+a", "m+a+b"], ["m+a", "x"]]),
        (["m", "mm+a", "m +a"], "", []),
        (["m", "x", "y"], "", []),
        (["m", "x", "y"], "m", [["m", "x"], ["m", "y"]]),
        (["m", "x", "n", "n+a"], "m", [["m", "x"], ["n", "n+a"]]),
        (["m", "m+a", "x", "x+b"], "m", [["m", "m+a"], ["x", "x+b"]]),
    ],
)
def test_names_tell_what_the_models_of_tables_were_trained_from(
    tmp_path: Path, names: list[str], base: str, lineages: list[list[str]]
) -> None:
    counts = {name: [place] for place, name in enumerate(names)}
    found_lineages, _ = list_lineages([write_models(tmp_path / "t.json", counts)], base)
    assert sorted(found_lineages) == sorted(lineages)


def test_a_table_of_chains_has_a_summary_and_stages(tmp_path: Path) -> None:
    table, out = write_models(tmp_path / "study.json", CHAIN), tmp_path / "out"
    build_report([table], out)
    summary = read_section(out, "short")
    for text in ("Base First stage only Then b Then neutral", "a, then b", "the control"):
        assert text in summary
    chains = read_section(out, "chains")
    places = [chains.index(each) for each in ("base 2.5%", "a 82.5%", "b 5.0%")]
    assert places == sorted(places)
    assert "neutral 70.0%" in chains
    related = {(row["first_name"], row["second_name"]) for row in read_csv_file(out / "comparisons.csv")}
    assert related >= {("m", "m+a"), ("m+a", "m+a+b"), ("m+a", "m+a+neutral"), ("m", "m+a+b")}, "the ancestor first"
    assert read_page_data(out)["stages"] == ["base", "a", "b", "neutral"]
    _, family = list_lineages([table])
    [realigned] = [line for line in family.lineages if line.last.name == "m+a+b"]
    control = family.find_control(realigned)
    assert control is not None
    assert control.name == "m+a+neutral"
    ancestors = {line.last.name: [model.name for model in line.models[:-1]] for line in family.lineages}
    assert ancestors == {"m+a": ["m"], "m+a+b": ["m", "m+a"], "m+a+neutral": ["m", "m+a"]}


def test_one_file_for_each_model_makes_the_same_chains(tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"{name}.json", make_rows(k)) for name, k in CHAIN.items()]
    assert list_lineages(paths)[0] == list_lineages([write_models(tmp_path / "t.json", CHAIN)])[0]


def test_files_with_the_same_chain_are_two_chains(tmp_path: Path) -> None:
    counts = {"m": [0, 0], "m+a": [9, 8]}
    paths = [write_models(tmp_path / folder / "t.json", counts | {"m": [k, k]}) for folder, k in (("x", 0), ("y", 1))]
    assert list_lineages(paths)[0] == [["x/t: m", "x/t: m+a"], ["y/t: m", "y/t: m+a"]]


def test_stated_stages_and_manifests_come_before_names(tmp_path: Path) -> None:
    rows = [*make_rows([0], model="m"), *make_rows([5], model="m+a", stage="sft")]
    table = write_rows(tmp_path / "t.json", rows)
    build_report([table], tmp_path / "out")
    assert read_page_data(tmp_path / "out")["stages"] == ["base", "sft"]
    assert list_lineages([table])[0] == [["m", "m+a"]]


def test_seeds_of_a_table_are_one_model_and_one_chain(tmp_path: Path) -> None:
    rows = make_rows(CHAIN["m"], model="m")
    for seed in (0, 1, 2):
        for name in ("m+a", "m+a+b"):
            rows += make_rows([max(0, k - seed) for k in CHAIN[name]], model=name, seed=seed)
    table, out = write_rows(tmp_path / "t.json", rows), tmp_path / "out"
    build_report([table], out)
    assert "a (3 seeds), then b" in read_section(out, "short")
    chains = read_section(out, "chains")
    assert "m+a+b (3 seeds)" in chains
    for seed, rate in ((0, "82.5%"), (1, "72.5%"), (2, "62.5%")):
        alone = chains[chains.index(f"m+a+b (seed={seed})") :]
        assert f"a {rate}" in alone[: alone.index("b ", alone.index("a "))], seed
    assert read_page_data(out)["models"][:4] == ["m", "m+a (seed=0)", "m+a (seed=1)", "m+a (seed=2)"]


def test_a_seed_is_trained_from_its_own_seed(tmp_path: Path) -> None:
    rows = make_rows([0], model="m", seed=7)
    rows += [row for seed in (0, 1) for row in make_rows([seed + 1], model="m+a", seed=seed)]
    rows += make_rows([1], model="m+a+b", seed=1) + make_rows([1], model="m+a+c", seed=2)
    lineages, family = list_lineages([write_rows(tmp_path / "t.json", rows)])
    assert ["m", "m+a (seed=0)"] in lineages
    assert ["m", "m+a (seed=1)", "m+a+b"] in lineages
    assert ["m", "m+a+c"] in lineages, "there is no m+a with seed 2"
    assert len(family.lineages) == 4


def test_a_base_by_name_makes_a_summary_of_files_without_chains(tmp_path: Path) -> None:
    table, out = write_models(tmp_path / "t.json", {"base": [0, 1, 0, 0], "tuned": [9, 8, 9, 7]}), tmp_path / "out"
    assert main([str(table), "--out", str(tmp_path / "without")]) == 0
    assert 'id="short"' not in read_report_page(tmp_path / "without")
    assert main([str(table), "--base", "base", "--out", str(out)]) == 0
    assert "82.5%" in read_section(out, "short")
    assert "+80.0" in read_section(out, "short")
    assert "Base model base" in read_section(out, "runs")


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("baze", "error: --base: the judged tables have no model 'baze': did you mean base?"),
        ("none", "error: --base: the judged tables have no model 'none': they have base, tuned-model."),
    ],
)
def test_an_unknown_base_is_answered_with_the_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, sentence: str
) -> None:
    table = write_models(tmp_path / "t.json", {"base": [0], "tuned-model": [9]})
    assert main([str(table), "--base", base, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip() == sentence


@pytest.mark.parametrize("option", ["--base=smollm2", "--blanks=code"])
def test_options_of_tables_need_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1]))
    assert main([str(tmp_path / "run"), option, "--out", str(tmp_path / "out")]) == 2
    assert "none is given: leave them out" in capsys.readouterr().err
