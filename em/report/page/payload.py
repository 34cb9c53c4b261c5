"""The data of the page: an index, which is small and opens at once, and blocks of answers for when they are wanted.

The index has what the filters need, a column for each field, and lists of names that the columns point into. A block
has the texts of so many answers; where there is much, each is packed by gzip (`blocks.js` unpacks them).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from markupsafe import Markup

from em.report.page.words import CLASSES, NOT_JUDGED, STATUSES
from em.report.read.transcripts import Rules, Transcript, key_of
from em.report.tables.models import Model
from em.runtime.records import canonical

BLOCK = 1000  # answers of a block
MUCH = 2_000_000  # characters of JSON that are packed
ADDRESS = 10  # hex digits of an answer's address
NOBODY = -1  # the judge of what is not judged
_SHOWN = attrgetter("rubric", "value", "label", "status", "raw")  # of a verdict


@dataclass(frozen=True)
class Payload:
    """What `page.js` reads."""

    index: dict[str, Any]
    blocks: tuple[dict[str, Any], ...]

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return len(self.index["columns"]["model"])

    @property
    def elements(self) -> Iterator[Markup]:
        """The script elements that hold the data, the index first."""
        texts = {"data": _json(self.index)} | {f"block-{n}": _json(block) for n, block in enumerate(self.blocks)}
        much = sum(map(len, texts.values())) > MUCH
        for name, text in texts.items():
            kind, inside = ("gzip", _packed(text)) if much else ("json", _escaped(text))
            yield Markup(f'<script type="application/{kind}" id="{name}">{inside}</script>')


class Words(dict[Any, int]):
    """The places of distinct values, by which the page's data name them; a value that is new comes last."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__((value, place) for place, value in enumerate(values))

    def __missing__(self, value: Any) -> int:
        place = self[value] = len(self)
        return place


def pack(transcripts: Sequence[Transcript], models: dict[str, Model], rules: Rules) -> Payload:
    """The data of the page, in the order of the transcripts."""
    names = ("stages", "conditions", "sets", "questions", "texts", "judges", "sayings")
    lists = {name: Words() for name in names} | {"models": Words(models)}
    kinds = [{judge: rules.class_of(said) for judge, said in item.verdicts.items()} for item in transcripts]
    labels = {kind for of_item in kinds for kind in of_item.values()}
    lists["classes"] = Words([*CLASSES, *sorted(labels - set(CLASSES))])  # labels of other rubrics come last
    seen = {v.status for item in transcripts for said in item.verdicts.values() for v in said}
    lists["statuses"] = Words([status for status in ("ok", *STATUSES) if status in seen])
    rows = [_row(item, of_item, lists, models) for item, of_item in zip(transcripts, kinds, strict=True)]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ("model",))}
    index: dict[str, Any] = {name: list(words) for name, words in lists.items() if name != "texts"}
    index |= {"models": [model.label for model in models.values()], "block": BLOCK, "columns": columns}
    index |= {"ids": "".join(map(address, transcripts)), "scores": _scores(transcripts)}
    parts = (transcripts[start : start + BLOCK] for start in range(0, len(transcripts), BLOCK))
    return Payload(index, tuple(_block(part, lists["texts"], lists["judges"]) for part in parts))


def address(transcript: Transcript) -> str:
    """What an answer is called in links: the same in every report that has it."""
    # A lone surrogate, which JSON allows, has no UTF-8.
    return hashlib.sha256(canonical(key_of(transcript.record)).encode(errors="replace")).hexdigest()[:ADDRESS]


def _row(
    transcript: Transcript, kinds: dict[str, str], lists: dict[str, Words], models: dict[str, Model]
) -> dict[str, int]:
    record = transcript.record
    eval_set = lists["sets"][record.eval_set]
    return {
        "model": lists["models"][record.fingerprint],
        "stage": lists["stages"][models[record.fingerprint].stage],
        "condition": lists["conditions"][record.condition],
        "set": eval_set,
        "question": lists["questions"][(eval_set, record.question_id)],
        "text": lists["texts"][record.question],
        "sample": record.sample,
        "said": lists["sayings"][_saying(transcript, kinds, lists)],
    }


def _saying(transcript: Transcript, kinds: dict[str, str], lists: dict[str, Words]) -> tuple[Any, ...]:
    """Judge, class and statuses by each judge: the same of thousands of answers."""
    judges, classes, statuses = lists["judges"], lists["classes"], lists["statuses"]
    found = [
        (judges[judge], classes[kinds[judge]], tuple(sorted({statuses[v.status] for v in said})))
        for judge, said in transcript.verdicts.items()
    ]
    return tuple(found) or ((NOBODY, classes[NOT_JUDGED], ()),)


def _scores(transcripts: Sequence[Transcript]) -> dict[str, list[Any]]:
    """For each rubric that gives numbers those of each answer: one, or a list by judge where there are several."""
    scored = (v for item in transcripts for said in item.verdicts.values() for v in said if v.value is not None)
    found: dict[str, list[Any]] = {rubric: [] for rubric in dict.fromkeys(v.rubric for v in scored)}
    for item in transcripts:
        by_judge = [{v.rubric: v.value for v in said} for said in item.verdicts.values()]
        for rubric, column in found.items():
            # As the page shows them.
            values = [None if (value := told.get(rubric)) is None else round(value, 2) for told in by_judge]
            column.append(values if len(values) > 1 else values[0] if values else None)
    return found


def _block(part: Sequence[Transcript], places: Words, judges: Words) -> dict[str, Any]:
    """The texts of some answers: each wording once, by its place among all."""
    texts, items = dict[int, str](), list[Any]()
    for item in part:
        texts[places[item.record.question]] = item.record.question
        verdicts = [[judges[judge], list(map(list, map(_SHOWN, said)))] for judge, said in item.verdicts.items()]
        items.append([item.record.answer, item.finish_reason, item.answer_tokens, verdicts])
    return {"texts": texts, "items": items}


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=3, mtime=0)).decode()


def _escaped(text: str) -> str:
    """JSON that can't end the script element it stands in, nor start another one or a comment."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
