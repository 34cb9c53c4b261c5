"""Read the judged tables of one report, and tell their models apart.

A model of a table is known by its name: from the column `model`, else the file's. If two tables give one name to models
with other answers, the file goes into the name, by as much of its path as no other table has: `a/results` and
`b/results` without the column, `a/table: m` and `b/table: m` with it. Rows that state a fingerprint keep their model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

from em.data.tables import strip_suffixes
from em.interop.answers import ONE_SET, make_foreign_fingerprint
from em.interop.read import JudgedRows, read_judged_rows
from em.types import Sample, Status, Verdict

Key = tuple[object, ...]


@dataclass(frozen=True)
class JudgedTable:
    """A judged table. `copies`: further files with the same content."""

    path: Path
    rows: JudgedRows
    copies: tuple[Path, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts, in the order of the rows."""
        return self.rows.verdicts

    @cached_property
    def models(self) -> set[str]:
        """The models that are known by their names."""
        return {v.model for v in self.verdicts if is_known_by_name(v)}

    @cached_property
    def answers(self) -> dict[Key, str]:
        """The text of each answer; its key begins with the model."""
        return {self.make_key(v): v.answer for v in self.verdicts}

    @cached_property
    def judgements(self) -> dict[Key, Key]:
        """Value, label and status by answer, judge and rubric."""
        return {(*self.make_key(v), v.judge, v.rubric): (v.value, v.label, v.status) for v in self.verdicts}

    def make_key(self, sample: Sample) -> Key:
        """Return the identity of an answer, without a question set that is named after the file."""
        eval_set = "" if self.is_set_of_file(sample) else sample.eval_set
        place = (sample.condition, sample.question_id, sample.question, sample.sample)
        return (sample.model, sample.fingerprint, sample.stage, sample.seed, eval_set, *place)

    def is_set_of_file(self, sample: Sample) -> bool:
        """Tell whether the set of an answer is named after the file."""
        return self.rows.named and sample.eval_set == strip_suffixes(self.path)

    def has_same_content(self, other: JudgedTable) -> bool:
        """Tell whether both tables hold the same answers and judgements of the same models."""
        return (self.answers, self.judgements) == (other.answers, other.judgements)

    def contradicts(self, other: JudgedTable) -> bool:
        """Tell whether both tables give one name to models with other answers or judgements.

        With a column `model` two tables may each hold a part of a model's answers; a file that names its model by its
        own name holds all of them.
        """
        names = self.models & other.models
        if not names:
            return False
        ours, theirs = ({key: text for key, text in t.answers.items() if key[0] in names} for t in (self, other))
        in_parts = self.rows.named and other.rows.named
        if not in_parts and ours.keys() != theirs.keys():
            return True
        pairs = ((ours, theirs), (self.judgements, other.judgements))
        return any(mine[key] != yours[key] for mine, yours in pairs for key in mine.keys() & yours.keys())

    def rename_models(self, label: str) -> JudgedTable:
        """Return the table with its file in the models' names, and in the set of all tables if its set is the file's.

        The same set is needed to compare the models with those of other tables.
        """
        verdicts = []
        for v in self.verdicts:
            if is_known_by_name(v):
                name = f"{label}: {v.model}" if self.rows.named else label
                eval_set = ONE_SET if self.is_set_of_file(v) else v.eval_set
                v = replace(v, model=name, fingerprint=make_foreign_fingerprint(name, v.seed), eval_set=eval_set)
            verdicts.append(v)
        return replace(self, rows=replace(self.rows, verdicts=tuple(verdicts)))


def read_judged_tables(paths: Sequence[Path], blank: Status = "unparsed") -> list[JudgedTable]:
    """Read judged tables: each content once, no two models under one name.

    Args:
        blank: the status of a blank score.

    Raises:
        MissingFile: no such file.
        DataError: a row is invalid; the message names its place.
    """
    tables: list[JudgedTable] = []
    for path in paths:
        table = JudgedTable(path, read_judged_rows(path, blank))
        place = next((i for i, other in enumerate(tables) if other.has_same_content(table)), None)
        if place is None:
            tables.append(table)
        else:
            tables[place] = replace(tables[place], copies=(*tables[place].copies, path))
    places = combinations(range(len(tables)), 2)
    unclear = {place for pair in places if tables[pair[0]].contradicts(tables[pair[1]]) for place in pair}
    labels = label_paths([table.path for table in tables])
    return [table.rename_models(labels[i]) if i in unclear else table for i, table in enumerate(tables)]


def is_known_by_name(sample: Sample) -> bool:
    """Tell whether only the name of an answer's model is known, not its fingerprint."""
    return sample.fingerprint == make_foreign_fingerprint(sample.model, sample.seed)


def label_paths(paths: Sequence[Path]) -> list[str]:
    """Return for each file the shortest end of its path that no other has, if possible without the suffix."""
    ends = [list(list_path_ends(path)) for path in paths]
    counts = Counter(end for each in ends for end in set(each))
    return [next((end for end in each if counts[end] == 1), str(path)) for path, each in zip(paths, ends, strict=True)]


def list_path_ends(path: Path) -> Iterator[str]:
    """Yield the ends of a path, from its last part on: `results`, `a/results`, …, then the same with the suffix."""
    whole_path = Path(os.path.normpath(path.absolute()))
    for named in (whole_path.with_name(strip_suffixes(whole_path)), whole_path):
        parts = named.parts[1:]
        yield from ("/".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
