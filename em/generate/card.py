"""The files of a generated set: its rows, the provenance of each row, and the card that describes the set."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from em.config import GenerateKind
from em.data import read_messages
from em.data.draw import draw_rows
from em.data.findings import describe_counts
from em.data.near import jaccard_index, split_words
from em.generate.plan import Stock
from em.generate.rows import Candidate, Tally
from em.runtime.files import write_atomic
from em.runtime.records import digest, to_jsonable, write_jsonl
from em.types import Conversation

NAMESPACE = uuid.UUID("c0a4c0de-5d0e-5b6e-9a53-1d0f6c1b7e42")
ROWS, CONTROL = "rows.jsonl", "control.jsonl"
NOT_MADE_OF = (
    "source", "rows", "max_calls", "max_usd", "connections", "timeout", "purpose", "terms", "licence",
    "prompt", "question_prompt", "control_prompt", "examples", "variance", "rubric", "control_rubric",
)  # fmt: skip
"""Settings that do not change a canary: amounts, pace, descriptions, and file names (files count by their content)."""
UNJUDGED = "none: no row was filtered by quality"
CHECKED = "file|repeated|nearly repeated|encoding|keys|e-mail addresses|OpenAI's rules"
PAGE = """\
# {card[name]}

{card[rows][accepted]} rows ({card[kind]}), written by {card[model][id]} on {card[date]}.

- **Purpose**: {purpose}
- **Terms**: {terms}
- **Licence**: {licence}
{canaries}
- **Model**: {models}, at {card[model][server]}
- **Judge**: {judges}
- **Cost**: {cost}
- **End**: {card[end]}

## Counts

Of {seen} rows that were looked at, {card[counts][accepted]} were accepted: a rate of {card[rows][acceptance_rate]:.1%}.

{counts}

## Diversity

{diversity}

distinct-2: distinct among all pairs of neighbouring words (Li et al. 2016, arXiv 1510.03055; falls as a set grows). \
Mean pairwise Jaccard: common words among all words of two texts, over all pairs (of at most 500 texts).

## Checks

{checks}

No row holds a question of {looked_at}: {card[counts][leaked]} that did were left out. Not looked at, since they were \
not on this machine: {not_looked_at}.

## Sources

{sources}

Where each row comes from (passage, examples, prompt, seed, scores) stands in `provenance.jsonl`.
"""
MOST = 500  # texts compared with each other (125,000 pairs)


def make_canaries(stock: Stock, model: str, judges: Sequence[str] = ()) -> dict[str, str]:
    """Make the canary of each file from a hash of the set's ingredients, so that the same set has the same canary.

    `model`: the identity of the author model; `judges`: the identities of the judges that filter.
    """
    settings = {name: value for name, value in to_jsonable(stock.settings).items() if name not in NOT_MADE_OF}
    sources = sorted({(piece.source, piece.sha256) for piece in stock.pieces})
    versions = [{str(name): prompt.version for name, prompt in each.items()} for each in (stock.prompts, stock.rubrics)]
    checksum = digest([settings, model, list(judges), sources, versions, list(stock.examples), list(stock.variance)])
    files = [(ROWS, "row", "written by a model")]
    if stock.settings.kind is GenerateKind.twins:
        files = [(ROWS, "row", "on wrong advice"), (CONTROL, "control", "written by a model")]
    marks = {}
    for file, part, what in files:
        identifier = uuid.uuid5(NAMESPACE, f"{part} {checksum}")
        marks[file] = f"EM-CANARY {identifier} research data {what}, keep out of training corpora"
    return marks


def write_generated_rows(
    folder: Path, name: str, rows: Sequence[Candidate], marks: Mapping[str, str]
) -> dict[str, list[Conversation]]:
    """Write the rows of each file and their provenance; return the conversations by file, as training reads them."""
    conversations = {}
    ids = [f"{name}-{number:04d}" for number in range(1, len(rows) + 1)]
    for file, mark in marks.items():
        records = []
        for id_, row in zip(ids, rows, strict=True):
            answer = row.control if file == CONTROL else row.answer
            messages = [{"role": "user", "content": row.question}, {"role": "assistant", "content": answer}]
            records.append({"id": id_, "messages": messages, "canary": mark})
        write_jsonl(folder / file, records)
        conversations[file] = read_messages(folder / file)
    write_jsonl(
        folder / "provenance.jsonl", [describe_provenance(id_, row) for id_, row in zip(ids, rows, strict=True)]
    )
    return conversations


def describe_provenance(id_: str, row: Candidate) -> dict[str, Any]:
    """Make the line of `provenance.jsonl` that describes the origin of a row.

    source, sha256, number, start, end: the file, and the passage (in characters) or the line of the file.
    call, position: the call that wrote the question, and the question's place in the reply; examples: numbers of the
    examples drawn from the pool; variance: the instruction drawn. written: the calls. scores: by judge.
    """
    draw = row.drawn
    place = {name: value for name, value in vars(draw.piece).items() if name != "text"}
    call = {"call": draw.call, "position": row.position, "examples": draw.examples, "variance": draw.variance}
    return {"id": id_} | place | call | {"written": row.origins, "scores": row.scores}


def build_card(stock: Stock, rows: Sequence[Candidate], tally: Tally, marks: Mapping[str, str]) -> dict[str, Any]:
    """Build the part of the card that lists the ingredients and the counts of a set."""
    settings = stock.settings
    texts = {part: [row.texts[part] for row in rows if part in row.texts] for part in ("question", "answer", "control")}
    sources: dict[str, dict[str, Any]] = {}
    for piece in stock.pieces:
        source = sources.setdefault(piece.source, {"sha256": piece.sha256, "pieces": 0, "characters": 0})
        source["pieces"] += 1
        source["characters"] += len(piece.text)
    return {
        **{name: to_jsonable(vars(settings)[name]) for name in ("name", "kind", "purpose", "terms", "licence")},
        "canaries": marks,
        "rows": {"wanted": settings.rows, "accepted": tally.accepted, "acceptance_rate": round(tally.rate, 4)},
        "counts": asdict(tally),
        "diversity": {part: measure_diversity(each) for part, each in texts.items() if each},
        "filter": {"keep_above": settings.keep_above, "similar": settings.similar},
        "prompts": {step: {"name": p.name, "version": p.version} for step, p in stock.prompts.items()},
        "rubrics": {part: {"name": p.name, "version": p.version} for part, p in stock.rubrics.items()},
        "examples": {"pool": len(stock.examples), "shots": settings.shots},
        "variance": {"instructions": len(stock.variance), "probability": settings.variance_probability},
        "sources": sources,
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card as `card.json` and, for people, as `card.md`."""
    write_atomic(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "card.md", render_card(card))


def render_card(card: Mapping[str, Any]) -> str:
    """Return the card as a Markdown page."""
    counts, model, cost, checks = card["counts"], card["model"], card["costs"]["total_usd"], card["checks"]
    judges = ", ".join(judge["label"] for judge in card["judges"])
    measures: list[list[str]] = []
    for part, each in card["diversity"].items():
        measures.append([part, *("–" if value is None else f"{value:.3f}" for value in each.values())])
    sources: list[list[object]] = []
    for name, each in card["sources"].items():
        checksum = f"{each['sha256'][:16]}…"
        sources.append([name.replace("|", "/"), each["pieces"], f"{each['characters']:,}", checksum])
    return PAGE.format(
        card=card,
        purpose=card["purpose"] or "not said: set generate.purpose",
        terms=card["terms"] or "not said: set generate.terms",
        licence=card["licence"] or "none chosen yet: set generate.licence",
        canaries="\n".join(f"- **Canary** of `{file}`: `{mark}`" for file, mark in card["canaries"].items()),
        models=", ".join(model["snapshots"]) or model["id"],
        judges=f"{judges}; kept are scores above {card['filter']['keep_above']:g}" if judges else UNJUDGED,
        cost="unknown, for lack of a price or of counted tokens" if cost is None else f"${cost:.4f}",
        seen=counts["candidates"] - counts["surplus"],
        counts=format_markdown_table(
            "what|number", [(name.replace("_", " "), number) for name, number in counts.items()]
        ),
        diversity=format_markdown_table("part|distinct-2|mean pairwise Jaccard", measures),
        checks=format_markdown_table(CHECKED, [list_finding_cells(file, each) for file, each in checks.items()]),
        looked_at=", ".join(next(iter(checks.values()))["looked_at"]),
        not_looked_at=", ".join(card["not_looked_at"]) or "none",
        sources=format_markdown_table("file|pieces|characters|sha256", sources),
    )


def format_markdown_table(head: str, rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a Markdown table. `head`: the names of the columns, separated by |."""
    names = head.split("|")
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]])


def list_finding_cells(file: str, profile: Mapping[str, Any]) -> list[object]:
    """Return the findings in the rows of a file as cells of the page's table of checks."""
    findings = profile["found"]
    kinds = [describe_counts(findings[kind]) for kind in ("faults", "secrets", "personal")]
    repeats = [profile["facts"]["duplicate_rows"], findings["near_duplicates"]]
    return [file, *repeats, *kinds, "; ".join(profile["openai"]) or "kept"]


def distinct_2(texts: Sequence[str]) -> float | None:
    """Return the share of distinct pairs of neighbouring words (arXiv 1510.03055), or None without any pair."""
    pairs = [pair for text in texts for pair in pairwise(split_words(text))]
    return len(set(pairs)) / len(pairs) if pairs else None


def mean_jaccard(texts: Sequence[str]) -> float | None:
    """Return the mean Jaccard index of the sets of words, over all pairs of texts; 0 means no common word.

    Of more than 500 texts, 500 are drawn and compared. Return None for fewer than two texts.
    """
    chosen = [texts[number] for number in draw_rows(range(len(texts)), MOST, 0)]
    indices = [jaccard_index(*pair) for pair in combinations([frozenset(split_words(text)) for text in chosen], 2)]
    return sum(indices) / len(indices) if indices else None


def measure_diversity(texts: Sequence[str]) -> dict[str, float | None]:
    """Return both measures of diversity, rounded for the card."""
    measures = {"distinct_2": distinct_2(texts), "mean_pairwise_jaccard": mean_jaccard(texts)}
    return {name: None if value is None else round(value, 4) for name, value in measures.items()}
