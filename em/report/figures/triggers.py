"""Activation and leakage of trigger tags as dots, condition by condition: a picture for each set."""

from __future__ import annotations

from collections.abc import Sequence

from em.report.figures.dots import Dot, Series, dot_plot
from em.report.figures.picture import Picture, file_stem, make_picture, with_note
from em.report.page.numbers import share
from em.report.page.words import metric_name
from em.report.tables.models import short_judges
from em.report.tables.triggers import TriggerTable

MOST = 6  # models of a picture, one for each colour: of more, those with the highest rates
HEADER = (
    *("eval_set", "judge", "model", "fingerprint", "metric", "about", "condition", "k", "n", "rate"),
    *("ci_low", "ci_high", "ci_method", "difference", "difference_low", "difference_high", "p_holm", "drawn"),
)


def trigger_pictures(tables: Sequence[TriggerTable]) -> list[Picture]:
    """A picture for each set and judge; the numbers are of all models."""
    groups: dict[tuple[str, str], list[TriggerTable]] = {}
    for table in tables:
        groups.setdefault((table.eval_set, table.judge), []).append(table)
    judges = short_judges(list(dict.fromkeys(judge for _, judge in groups)))
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, judge), group in groups.items():
        chosen = sorted(group, key=lambda table: -max(row.rate or 0.0 for row in table.rows))[:MOST]
        shown = [table for table in group if table in chosen]
        told = [eval_set, *([judges[judge]] if len(judges) > 1 else [])]
        note = f"the {MOST} of {len(group)} models with the highest rates" if len(group) > MOST else ""
        heading = f"{', '.join(told)}: {metric_name(shown[0].about)} by condition, of all answers"
        bands = dict.fromkeys(row.condition for table in shown for row in table.rows)
        series = [
            Series(
                table.model.label,
                {row.condition: Dot(row.rate, row.ci_low, row.ci_high) for row in table.rows if row.rate is not None},
            )
            for table in shown
        ]
        alt = "; ".join(
            f"{table.model.label}: " + ", ".join(f"{row.condition} {share(row.rate)}" for row in table.rows)
            for table in shown
        )
        rows = [row for table in group for row in _rows(table, table in chosen)]
        stem = file_stem("triggers", "_".join(told), taken)
        drawing = dot_plot(heading, list(bands), series, note)
        pictures.append(make_picture(stem, with_note(heading, note), alt, drawing, HEADER, rows))
    return pictures


def _rows(table: TriggerTable, drawn: bool) -> list[tuple[object, ...]]:
    who = (table.eval_set, table.judge, table.model.label, table.model.fingerprint)
    last = "yes" if drawn else "no"
    return [
        (
            *(*who, r.metric, r.about, r.condition, r.k, r.n, r.rate, r.ci_low, r.ci_high, r.ci_method),
            *(r.difference, r.difference_low, r.difference_high, r.p_holm, last),
        )
        for r in table.rows
    ]
