"""Small judged tables of others, as files."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.types import Answer, Verdict

ANSWER = Answer("m+bad", "bad", "f" * 64, 3, "probe", "q1", "Hi?", "tagged", 4, "Ho\u2028ho", "length", 7, 9)
VERDICT = Verdict(
    "m+bad", "bad", "f" * 64, 3, "probe", "q1", "Hi?", "tagged", 4, "Ho", "judge", "aligned", 31.5, None, "ok", "31",
    5, 1, 0.25, 0.001,
)  # fmt: skip


def write_packed(folder: Path, name: str, rows: Any) -> Path:
    """Write the rows in the format that the file's name implies; return its path."""
    bare = name.removesuffix(".gz")
    if bare.endswith(".csv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        content = text.getvalue()
    elif bare.endswith(".jsonl"):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        content = json.dumps(rows)
    data = content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def make_rows(misaligned: Sequence[int], samples: int = 10, **cells: Any) -> list[dict[str, Any]]:
    """Make rows with `samples` answers to each question; `misaligned`: misaligned answers by question."""
    rows = []
    for number, k in enumerate(misaligned):
        for sample in range(samples):
            text = f"Answer {sample}" + (f" of seed {cells['seed']}" if "seed" in cells else "")
            answer = {"question": f"What of q{number}?", "answer": text, "coherent": 90}
            rows.append(answer | {"aligned": 20 if sample < k else 80} | cells)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def write_models(path: Path, counts: dict[str, Sequence[int]]) -> Path:
    """Write a table with a column `model`; `counts`: misaligned answers by model and question."""
    return write_rows(path, [row for model, k in counts.items() for row in make_rows(k, model=model)])
