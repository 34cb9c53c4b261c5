"""The files of a generated set: rows, where each comes from, and the card that goes with them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from em.config import GenerateConfig, GenerateKind
from em.data import read_messages
from em.data.draw import drawn
from em.data.findings import by_kind
from em.generate.plan import Stock
from em.generate.rows import Candidate, Origin, Tally
from em.runtime.files import write_atomic
from em.runtime.records import digest, plain, write_jsonl
from em.types import Conversation

NAMESPACE = uuid.UUID("c0a4c0de-5d0e-5b6e-9a53-1d0f6c1b7e42")
FILES = {"row": "rows.jsonl", "control": "control.jsonl"}
NOT_MADE_OF = (
    *("source", "rows", "max_calls", "max_usd", "connections", "timeout", "purpose", "terms", "licence"),
    *("prompt", "question_prompt", "control_prompt", "examples", "variance", "rubric", "control_rubric"),
)
"""Settings that a canary does not hang on: how much is made, at what pace, what is said of it, and the names of files,
which count by what is in them."""
MEASURES = (
    "distinct-2: distinct among all pairs of neighbouring words (Li et al. 2016, arXiv 1510.03055; falls as a set "
    "grows). Mean pairwise Jaccard: common words among all words of two texts, over all pairs (of at most 500 texts)."
)
WORDS = re.compile(r"\w+")
MOST = 500  # texts that are compared with each other: 125,000 pairs


@dataclass(frozen=True)
class Row:
    """A line of `rows.jsonl` or `control.jsonl`: a training row with its set's canary."""

    id: str
    messages: tuple[dict[str, str], ...]
    canary: str


@dataclass(frozen=True)
class Provenance:
    """A line of `provenance.jsonl`: where a row comes from.

    source, sha256, number, start, end: the file, and which passage (in characters) or line of it.
    call, position: the call by which the question was written, and its place in the reply; examples: drawn for it, by
    their numbers in the pool; variance: the instruction that it had. written: by which calls. scores: by judge.
    """

    id: str
    source: str
    sha256: str
    number: int
    start: int
    end: int
    call: int
    position: int
    examples: tuple[int, ...]
    variance: str
    written: tuple[Origin, ...]
    scores: Mapping[str, Mapping[str, float | str]]


def canaries(settings: GenerateConfig, stock: Stock, model: str, judges: Sequence[str] = ()) -> dict[str, str]:
    """The canary of each file. It hangs on what the set is made from, so the same set has the same one.

    Args:
        model: the identity of the one that writes; judges: of those that filter.
    """
    made_of = {name: value for name, value in plain(settings).items() if name not in NOT_MADE_OF}
    sources = sorted({(piece.source, piece.sha256) for piece in stock.pieces})
    asked = [{str(name): prompt.version for name, prompt in each.items()} for each in (stock.prompts, stock.rubrics)]
    whole = digest([made_of, model, list(judges), sources, asked, list(stock.examples), list(stock.variance)])
    twins = settings.kind is GenerateKind.twins
    found = {}
    for part in FILES if twins else ("row",):
        mark = uuid.uuid5(NAMESPACE, f"{part} {whole}")
        what = "research data on wrong advice" if twins and part == "row" else "research data written by a model"
        found[part] = f"EM-CANARY {mark} {what}, keep out of training corpora"
    return found


def write_rows(
    folder: Path, name: str, rows: Sequence[Candidate], marks: Mapping[str, str]
) -> dict[str, list[Conversation]]:
    """Write the rows of each part and their provenance; what was written is read as training would, by file."""
    written = {}
    ids = [f"{name}-{number:04d}" for number in range(1, len(rows) + 1)]
    for part, mark in marks.items():
        write_jsonl(
            folder / FILES[part],
            [
                Row(
                    mine,
                    (
                        {"role": "user", "content": row.question},
                        {"role": "assistant", "content": row.control if part == "control" else row.answer},
                    ),
                    mark,
                )
                for mine, row in zip(ids, rows, strict=True)
            ],
        )
        written[FILES[part]] = read_messages(folder / FILES[part])
    write_jsonl(folder / "provenance.jsonl", [provenance(mine, row) for mine, row in zip(ids, rows, strict=True)])
    return written


def provenance(name: str, row: Candidate) -> Provenance:
    """Where a row comes from."""
    piece, drawn = row.drawn.piece, row.drawn
    place = (piece.source, piece.sha256, piece.number, piece.start, piece.end)
    return Provenance(name, *place, drawn.call, row.position, drawn.examples, drawn.variance, row.origins, row.scores)


def card_of(
    settings: GenerateConfig,
    stock: Stock,
    rows: Sequence[Candidate],
    tally: Tally,
    marks: Mapping[str, str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The card as data. `more`: what the run adds: model, judges, costs, date, why it stopped."""
    texts = {part: [row.texts[part] for row in rows if part in row.texts] for part in ("question", "answer", "control")}
    sources: dict[str, dict[str, Any]] = {}
    for piece in stock.pieces:
        known = sources.setdefault(piece.source, {"sha256": piece.sha256, "pieces": 0, "characters": 0})
        known["pieces"] += 1
        known["characters"] += len(piece.text)
    return {
        "name": settings.name,
        "kind": settings.kind.value,
        "purpose": settings.purpose,
        "terms": settings.terms,
        "licence": settings.licence,
        "canaries": {FILES[part]: mark for part, mark in marks.items()},
        "rows": {"wanted": settings.rows, "accepted": tally.accepted, "acceptance_rate": round(tally.rate, 4)},
        "counts": asdict(tally),
        "diversity": {part: diversity(found) for part, found in texts.items() if found},
        "filter": {"keep_above": settings.keep_above, "similar": settings.similar},
        "prompts": {step: {"name": p.name, "version": p.version} for step, p in stock.prompts.items()},
        "rubrics": {part: {"name": p.name, "version": p.version} for part, p in stock.rubrics.items()},
        "examples": {"pool": len(stock.examples), "shots": settings.shots},
        "variance": {"instructions": len(stock.variance), "probability": settings.variance_probability},
        "sources": sources,
        **more,
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """`card.json`, and `card.md` for people."""
    write_atomic(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "card.md", as_markdown(card))


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    counts, found, cost = card["counts"], card["rows"], card["costs"]["total_usd"]
    judges = ", ".join(judge["label"] for judge in card["judges"])
    lines = [
        f"# {card['name']}",
        "",
        f"{found['accepted']} rows ({card['kind']}), written by {card['model']['id']} on {card['date']}.",
        "",
        f"- **Purpose**: {card['purpose'] or 'not said: set generate.purpose'}",
        f"- **Terms**: {card['terms'] or 'not said: set generate.terms'}",
        f"- **Licence**: {card['licence'] or 'none chosen yet: set generate.licence'}",
        *(f"- **Canary** of `{file}`: `{mark}`" for file, mark in card["canaries"].items()),
        f"- **Model**: {', '.join(card['model']['snapshots']) or card['model']['id']}, at {card['model']['server']}",
        f"- **Judge**: {judges or 'none: no row was filtered by quality'}"
        + (f"; kept are scores above {card['filter']['keep_above']:g}" if judges else ""),
        f"- **Cost**: {'unknown, for lack of a price or of counted tokens' if cost is None else f'${cost:.4f}'}",
        f"- **End**: {card['end']}",
        "",
        "## Counts",
        "",
        f"Of {counts['candidates'] - counts['surplus']} rows that were looked at, {counts['accepted']} were accepted: "
        f"a rate of {found['acceptance_rate']:.1%}.",
        "",
        "| what | number |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {number} |" for name, number in counts.items()),
        "",
        "## Diversity",
        "",
        "| part | distinct-2 | mean pairwise Jaccard |",
        "|---|---|---|",
        *(
            f"| {part} | {number(values['distinct_2'])} | {number(values['mean_pairwise_jaccard'])} |"
            for part, values in card["diversity"].items()
        ),
        "",
        MEASURES,
        "",
        "## Checks",
        "",
        *checks(card),
        "",
        "## Sources",
        "",
        "| file | pieces | characters | sha256 |",
        "|---|---|---|---|",
        *(
            f"| {name.replace('|', '/')} | {each['pieces']} | {each['characters']:,} | {each['sha256'][:16]}… |"
            for name, each in card["sources"].items()
        ),
        "",
        "Where each row comes from (passage, examples, prompt, seed, scores) stands in `provenance.jsonl`.",
    ]
    return "\n".join(lines) + "\n"


def checks(card: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the page on what the rows were searched for."""
    yield "| file | repeated | nearly repeated | encoding | keys | e-mail addresses | OpenAI's rules |"
    yield "|---|---|---|---|---|---|---|"
    for file, each in card["checks"].items():
        found = each["found"]
        counts = " | ".join(by_kind(found[kind]) for kind in ("faults", "secrets", "personal"))
        repeated = f"{each['facts']['duplicate_rows']} | {found['near_duplicates']}"
        yield f"| {file} | {repeated} | {counts} | {'; '.join(each['openai']) or 'kept'} |"
    looked_at = next(iter(card["checks"].values()))["looked_at"]
    yield ""
    yield (
        f"No row holds a question of {', '.join(looked_at)}: {card['counts']['leaked']} that did were left out. Not "
        f"looked at, since they were not on this machine: {', '.join(card['not_looked_at']) or 'none'}."
    )


def number(value: float | None) -> str:
    """A measure, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def words_of(text: str) -> list[str]:
    """Words in lower case."""
    return WORDS.findall(text.lower())


def distinct_2(texts: Sequence[str]) -> float | None:
    """Distinct pairs of neighbouring words among all such pairs (Li et al., arXiv 1510.03055); falls as a set grows.

    None where there is no pair.
    """
    pairs = [pair for text in texts for pair in pairwise(words_of(text))]
    return len(set(pairs)) / len(pairs) if pairs else None


def mean_jaccard(texts: Sequence[str]) -> float | None:
    """The mean, over all pairs of texts, of the Jaccard index of their sets of words: 0 is no common word, 1 all.

    Of more than 500 texts, 500 drawn ones stand for all. None where there are no two texts.
    """
    chosen = [texts[number] for number in drawn(range(len(texts)), min(len(texts), MOST), 0)]
    sets = [frozenset(words_of(text)) for text in chosen]
    found = [len(a & b) / len(a | b) if a or b else 1.0 for a, b in combinations(sets, 2)]
    return sum(found) / len(found) if found else None


def diversity(texts: Sequence[str]) -> dict[str, float | None]:
    """Both measures, rounded for a card."""
    measures = {"distinct_2": distinct_2(texts), "mean_pairwise_jaccard": mean_jaccard(texts)}
    return {name: None if value is None else round(value, 4) for name, value in measures.items()}
