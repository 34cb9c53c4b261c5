"""The data of the page: a small index that loads at once, and blocks of answers that load when they are shown.

The index has a column for each field of the filters, and lists of names that the columns refer to. A block has the
texts of BLOCK answers. Large data are compressed with gzip (`blocks.js` decompresses them).
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
from em.report.read.transcripts import Transcript, VerdictThresholds, key_of
from em.report.tables.models import Model
from em.runtime.records import encode_canonical

BLOCK = 1000  # answers per block
MUCH = 2_000_000  # characters of JSON above which all data are compressed
ADDRESS = 10  # hex digits of an answer's address in links
NOBODY = -1  # the judge of an answer without a verdict
_SHOWN = attrgetter("rubric", "value", "label", "status", "raw")  # fields of a verdict


@dataclass(frozen=True)
class Payload:
    """The data that `page.js` reads."""

    index: dict[str, Any]
    blocks: tuple[dict[str, Any], ...]

    @property
    def answers(self) -> int:
        """The number of answers."""
        return len(self.index["columns"]["model"])

    @property
    def elements(self) -> Iterator[Markup]:
        """The script elements with the data, the index first."""
        block_texts = {f"block-{n}": _dump_json(block) for n, block in enumerate(self.blocks)}
        texts = {"data": _dump_json(self.index)} | block_texts
        much = sum(map(len, texts.values())) > MUCH
        for name, text in texts.items():
            kind, content = ("gzip", _compress_text(text)) if much else ("json", _escape_json(text))
            yield Markup(f'<script type="application/{kind}" id="{name}">{content}</script>')


class NumberedValues(dict[Any, int]):
    """Distinct values with their numbers, by which the page's data refer to them; a new value gets the next number."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__((value, place) for place, value in enumerate(values))

    def __missing__(self, value: Any) -> int:
        place = self[value] = len(self)
        return place


def pack_transcripts(transcripts: Sequence[Transcript], models: dict[str, Model], rules: VerdictThresholds) -> Payload:
    """Make the data of the page, in the order of the transcripts."""
    names = ("stages", "conditions", "sets", "questions", "texts", "judges", "sayings")
    lists = {name: NumberedValues() for name in names} | {"models": NumberedValues(models)}
    kinds = [{judge: rules.find_class(rows) for judge, rows in item.verdicts.items()} for item in transcripts]
    labels = {kind for by_judge in kinds for kind in by_judge.values()}
    lists["classes"] = NumberedValues([*CLASSES, *sorted(labels - set(CLASSES))])  # labels of other rubrics come last
    seen = {v.status for item in transcripts for verdicts in item.verdicts.values() for v in verdicts}
    lists["statuses"] = NumberedValues([status for status in ("ok", *STATUSES) if status in seen])
    rows = [_make_answer_row(item, by_judge, lists, models) for item, by_judge in zip(transcripts, kinds, strict=True)]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ("model",))}
    index: dict[str, Any] = {name: list(words) for name, words in lists.items() if name != "texts"}
    index |= {"models": [model.label for model in models.values()], "block": BLOCK, "columns": columns}
    index |= {"ids": "".join(map(make_answer_address, transcripts)), "scores": _collect_scores(transcripts)}
    parts = (transcripts[start : start + BLOCK] for start in range(0, len(transcripts), BLOCK))
    return Payload(index, tuple(_make_block(part, lists["texts"], lists["judges"]) for part in parts))


def make_answer_address(transcript: Transcript) -> str:
    """Return the address of an answer in links, which is the same in every report with this answer."""
    # JSON allows a lone surrogate, which UTF-8 cannot encode.
    return hashlib.sha256(encode_canonical(key_of(transcript.record)).encode(errors="replace")).hexdigest()[:ADDRESS]


def _make_answer_row(
    transcript: Transcript, kinds: dict[str, str], lists: dict[str, NumberedValues], models: dict[str, Model]
) -> dict[str, int]:
    """Make the row of an answer: the number of its value in each list."""
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
        "said": lists["sayings"][_make_saying(transcript, kinds, lists)],
    }


def _make_saying(transcript: Transcript, kinds: dict[str, str], lists: dict[str, NumberedValues]) -> tuple[Any, ...]:
    """Return judge, class and statuses by each judge; thousands of answers share the same tuple."""
    judges, classes, statuses = lists["judges"], lists["classes"], lists["statuses"]
    by_judge = []
    for judge, verdicts in transcript.verdicts.items():
        its_statuses = sorted({statuses[v.status] for v in verdicts})
        by_judge.append((judges[judge], classes[kinds[judge]], tuple(its_statuses)))
    return tuple(by_judge) or ((NOBODY, classes[NOT_JUDGED], ()),)


def _collect_scores(transcripts: Sequence[Transcript]) -> dict[str, list[Any]]:
    """Return the scores of each answer by rubric: a number, or a list by judge if there are several judges."""
    scored = (v for item in transcripts for rows in item.verdicts.values() for v in rows if v.value is not None)
    columns: dict[str, list[Any]] = {rubric: [] for rubric in dict.fromkeys(v.rubric for v in scored)}
    for item in transcripts:
        by_judge = [{v.rubric: v.value for v in verdicts} for verdicts in item.verdicts.values()]
        for rubric, column in columns.items():
            values = [scores.get(rubric) for scores in by_judge]
            shown = [None if value is None else round(value, 2) for value in values]  # as the page shows them
            column.append(shown if len(shown) > 1 else next(iter(shown), None))
    return columns


def _make_block(part: Sequence[Transcript], places: NumberedValues, judges: NumberedValues) -> dict[str, Any]:
    """Make a block of answers; each wording of a question appears once, by its number."""
    texts, items = dict[int, str](), list[Any]()
    for item in part:
        texts[places[item.record.question]] = item.record.question
        verdicts = [[judges[judge], [list(_SHOWN(v)) for v in rows]] for judge, rows in item.verdicts.items()]
        items.append([item.record.answer, item.finish_reason, item.answer_tokens, verdicts])
    return {"texts": texts, "items": items}


def _dump_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _compress_text(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=3, mtime=0)).decode()


def _escape_json(text: str) -> str:
    """Escape JSON so that it cannot end its script element, nor start another element or a comment."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
