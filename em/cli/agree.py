"""Read two judges' verdicts, compare them, and write `agree.csv` and its picture (`em judge agree`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from em.errors import ConfigError, DataError, did_you_mean, shorten_value
from em.interop import read_judged
from em.interop.answers import NOT_STATED
from em.report import find_run_paths
from em.report.figures.agreement import AgreementChart, make_agreement_picture
from em.report.figures.picture import write_records
from em.report.tables.models import shorten_judges
from em.runtime.files import make_writable_folder
from em.stats import AgreementRow, Matching, Thresholds, compare_judges, match_answers
from em.types import Verdict

MOST = 12  # rows of a table in the terminal
STATISTICS = {
    "mean_absolute_error": "mean absolute error",
    "bias": "bias, B − A",
    "alpha": "Krippendorff's alpha",
    "kappa": "Cohen's kappa",
    "rank_correlation": "rank correlation of models' rates",
}


@dataclass(frozen=True)
class Side:
    """The verdicts of one judge, and the run or table that has them."""

    judge: str
    source: str
    verdicts: list[Verdict]


def compare_sources(
    sources: Sequence[str], judges: Sequence[str] | None, limits: Thresholds, out: Path
) -> Iterator[str]:
    """Compare two judges, write the results into `out`, and yield the lines to print."""
    sides = find_sides(sources, judges)
    matching = match_answers(sides[0].verdicts, sides[1].verdicts)
    if not matching.pairs:
        first, second = (f"{side.source} ({count} answers)" for side, count in zip(sides, matching.left, strict=True))
        raise DataError(
            f"{first} and {second} share no answer: judge the same answers twice, for example with "
            "evaluate.py answers=FILE judge=NAME."
        )
    rows = compare_judges(matching.pairs, limits)
    scores = {row.score: matching.list_scores(row.score) for row in rows if row.statistic == "bias"}
    make_writable_folder(out, "--out")
    if scores:
        short = shorten_judges({side.judge: None for side in sides})
        names = short[sides[0].judge], short[sides[1].judge]
        make_agreement_picture(AgreementChart(names, scores, limits, rows)).write_files(out)
    else:
        write_records(out / "agree.csv", rows)
    for letter, side in zip("AB", sides, strict=True):
        yield f"{letter}: {side.judge} ({side.source})"
    yield from format_matching(matching)
    yield from format_tables(rows, limits)
    yield f"\n{out / 'agree.csv'}"


def find_sides(sources: Sequence[str], names: Sequence[str] | None) -> list[Side]:
    """Read one or two sources, and choose the judge of each side."""
    if len(sources) > 2:
        raise ConfigError(f"em judge agree compares two judges: give one or two sources, not {len(sources)}.")
    by_source = [read_judges(source) for source in sources]
    if names is None and len(sources) == 1 and len(by_source[0]) == 2:
        names = list(by_source[0])
    sides = []
    for i in (0, 1):
        source, judges = sources[i % len(sources)], by_source[i % len(sources)]
        if names is None and len(sources) == len(judges) == 1:
            raise ConfigError(f"{source} has one judge, {next(iter(judges))}: give a second run or table too.")
        if names is None and len(judges) > 1:
            raise ConfigError(
                f"{source} has {len(judges)} judges, {', '.join(judges)}: name A and B with --judges NAME NAME."
            )
        judge = next(iter(judges)) if names is None else find_judge(source, list(judges), names[i])
        sides.append(Side(judge, source, judges[judge]))
    return sides


def read_judges(source: str) -> dict[str, list[Verdict]]:
    """Return the verdicts of a source by judge; a judge that a table does not name is called as the source."""
    name, _, chosen = source.rpartition(":")
    if not name or Path(source).exists():
        name, chosen = source, ""
    columns = chosen.split(",") if chosen else []
    if len(columns) > 2:
        raise ConfigError(f"{source} names {len(columns)} columns: name that of aligned, then that of coherent.")
    judges: dict[str, list[Verdict]] = {}
    for path in find_run_paths([Path(name)]):
        for v in read_judged(path if path.is_file() else path / "verdicts.jsonl", columns):
            judges.setdefault(source if v.judge == NOT_STATED else v.judge, []).append(v)
    return judges


def find_judge(source: str, judges: Sequence[str], name: str) -> str:
    """Return the judge with this name, in full or as reports shorten it."""
    names = {short: judge for judge, short in shorten_judges(judges).items()} | {judge: judge for judge in judges}
    if name not in names:
        hint = did_you_mean(name, names, f"it has {', '.join(judges)}.")
        raise ConfigError(f"--judges: {source} has no judge {shorten_value(name)!r}: {hint}")
    return names[name]


def format_matching(matching: Matching) -> Iterator[str]:
    """Yield the line on how many answers were matched, and how."""
    ways = ", ".join(f"{count} by {way}" for way, count in matching.counts.items() if count)
    yield f"{len(matching.pairs)} answers matched: {ways}."
    yield f"Not matched: {matching.left[0]} of A, {matching.left[1]} of B."


def format_tables(rows: Sequence[AgreementRow], limits: Thresholds) -> Iterator[str]:
    """Yield the statistics on all answers, then by question and model, then the judgements without a score."""
    yield f"\n{'':48}{'value':>8}  {'95 % interval':20}{'n':>6}"
    for row in rows:
        if row.group == "*":
            yield format_row(f"{row.score}: {STATISTICS[row.statistic]}", row)
    values = {(row.statistic, row.group): 100 * (row.value or 0) for row in rows}
    tables: dict[str, list[tuple[str, AgreementRow]]] = {}
    for row in rows:
        kind, _, name = row.group.partition(" ")
        if row.statistic == "bias" and name:
            tables.setdefault(f"Bias by {kind}, B − A", []).append((f"{row.score}, {name}", row))
        elif row.statistic == "rate_difference":
            a, b = (values[rate, row.group] for rate in ("rate_a", "rate_b"))
            title = f"Misaligned rate ({limits}) in percent, B − A in points"
            tables.setdefault(title, []).append((f"A {a:.1f}, B {b:.1f}: {name}", row))
    for title, lines in tables.items():
        more = f" (the {MOST} largest of {len(lines)}; agree.csv has all)" if len(lines) > MOST else ""
        yield f"\n{title}{more}"
        lines.sort(key=lambda line: -abs(line[1].value or 0))
        yield from (format_row(name, row) for name, row in lines[:MOST])
    failures = [f"{row.score} by {row.group}: {row.value:.0f}" for row in rows if row.statistic == "not_scored"]
    yield f"\nWithout a score, so left out of the scores: {'; '.join(failures) or 'none'}."
    if failures:
        yield "A refusal or code is a class; an answer with another status has none and is left out of kappa and rates."


def format_row(name: str, row: AgreementRow) -> str:
    """Write a row of a table; differences have a sign, and those of rates are in points."""
    scale = 100 if row.statistic == "rate_difference" else 1
    sign = "+" if row.statistic in ("bias", "rate_difference") else ""
    digits = 2 if row.statistic in ("alpha", "kappa", "rank_correlation") else 1
    numbers = (row.value, row.low, row.high)
    value, low, high = ("–" if x is None else f"{scale * x:{sign}.{digits}f}" for x in numbers)
    interval = "no interval" if row.low is None else f"[{low}, {high}]"
    return f"  {shorten_value(name, 45):46}{value:>8}  {interval:20}{row.n:>6}"
