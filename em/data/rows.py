"""Load training rows: read, check, draw and mix them.

em shows each user once, at the first use of a set, terms that forbid more than a usual licence does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from em.config import BundledData, DataConfig, FileData, HubData, MixtureData, NoData, OnBadRow, UpstreamData
from em.config.paths import ASSETS
from em.data.draw import draw_rows
from em.data.fetch import Source, fetch_file
from em.data.files import ReadRows, collect_usable_rows, convert_rows, read_file_rows
from em.data.hub import read_hub_rows
from em.data.layouts import RowReader
from em.data.mixtures import check_mixture, draw_mixture
from em.data.openai_rules import encode_file_lines
from em.errors import DataError, MissingFile
from em.request import Rows, describe_first_skipped
from em.runtime.files import find_cache_folder
from em.runtime.records import digest
from em.types import Conversation

BUNDLED = ASSETS / "data"


@dataclass(frozen=True)
class WholeSet(ReadRows):
    """All rows of one set, before its limit.

    dropped: as in `Rows`. layouts: the number of rows read in each layout, which is in words.
    """

    dropped: int = 0
    layouts: Mapping[str, int] = field(default_factory=dict)


def load_rows(config: DataConfig, seed: int, setting: str = "data.limit") -> Rows:
    """Load the rows of a `data` option up to its limit, the setting `setting`; return no rows for `data=none`."""
    stage = setting.removesuffix(".limit")
    place = stage if stage == "data" else f"{stage}.data"
    match config:
        case NoData():
            return Rows(config.name, ())
        case MixtureData():
            return load_mixture(config, seed, place, setting)
        case _:
            full_set = read_all_rows(config, place)
            chosen = limit_rows(full_set.conversations, config.limit, seed, setting)
            return Rows(config.name, chosen, skipped=full_set.skipped, dropped=full_set.dropped)


def load_mixture(config: MixtureData, seed: int, place: str, setting: str) -> Rows:
    """Load the rows of a mixture, part after part; check the config before reading a file."""
    check_mixture(config, place)
    parts = {name: apply_mixture_settings(part, config) for name, part in config.parts.items()}
    sets = {name: read_all_rows(part, f"{place}.parts.{name}") for name, part in parts.items()}
    chosen = draw_mixture(config, {name: part.conversations for name, part in sets.items()}, seed, place, setting)
    return Rows(
        config.name,
        tuple(row for rows in chosen.values() for row in rows),
        tuple((name, len(rows)) for name, rows in chosen.items()),
        tuple(replace(row, place=f"{name}, {row.place}") for name, part in sets.items() for row in part.skipped),
        sum(part.dropped for part in sets.values()),
    )


def apply_mixture_settings(part: DataConfig, mixture: MixtureData) -> DataConfig:
    """Return the config of a part with the settings that the mixture applies to all parts."""
    return replace(
        part,
        drop_answers_with=[*mixture.drop_answers_with, *part.drop_answers_with],
        on_bad_row=OnBadRow.skip if OnBadRow.skip in (mixture.on_bad_row, part.on_bad_row) else OnBadRow.error,
    )


def read_all_rows(
    config: DataConfig, place: str = "data", setting: str = "", reader: RowReader | None = None
) -> WholeSet:
    """Read all rows of an option that is no mixture; print the places of skipped rows.

    Args:
        setting: the setting that leaves bad rows out, for an error; by default `on_bad_row` of the place.

    Raises MissingFile or FetchError, or DataError for bad rows unless the config skips them, or where no row is left.
    """
    if config.restricted:
        show_terms(config.name, config.licence, config.terms)
    reader = reader or RowReader()
    match config:
        case HubData():
            origin, results = config.id, convert_rows("row", enumerate(read_hub_rows(config, place), start=1), reader)
        case UpstreamData():
            path = find_data_file(config, place)
            origin, results = str(path), read_file_rows(path, config.skip_lines, reader)
        case _:
            path = find_data_file(config, place)
            origin, results = str(path), read_file_rows(path, reader=reader)
    read = collect_usable_rows(results, origin, config.on_bad_row is OnBadRow.skip, setting or f"{place}.on_bad_row")
    if read.skipped:
        print(
            f"{origin}: {len(read.skipped):,} rows left out ({'; '.join(describe_first_skipped(read.skipped))} …)",
            flush=True,
        )
    remaining = tuple(row for row in read.conversations if not has_text_in_answer(row, config.drop_answers_with))
    if not remaining:
        raise DataError(f"{place}.drop_answers_with leaves no row of {origin}: name texts that few answers contain.")
    return WholeSet(remaining, read.skipped, len(read.conversations) - len(remaining), reader.layouts)


def has_text_in_answer(row: Conversation, texts: Sequence[str]) -> bool:
    """Return whether an answer of the row contains one of the texts."""
    return any(text in m.content for m in row.messages if m.role == "assistant" for text in texts)


def find_data_file(config: DataConfig, place: str = "data") -> Path:
    """Return the file of a `data` option; download it at first use."""
    match config:
        case BundledData():
            return BUNDLED / config.file
        case UpstreamData():
            return fetch_file(Source(config.url, config.sha256, config.bytes))
        case FileData():
            path = Path(config.path).expanduser()
            if not path.is_file():
                raise MissingFile(f"{place}.path={config.path} is not a file: name the file that holds the rows.")
            return path
        case _:
            raise TypeError(f"{type(config).__name__} has no file")


def limit_rows(
    conversations: Sequence[Conversation], limit: int | None, seed: int, setting: str
) -> tuple[Conversation, ...]:
    """Draw `limit` rows by the seed, in file order; a smaller limit gives a subset of a larger one."""
    count = len(conversations)
    if limit is None or limit == count:
        return tuple(conversations)
    if limit > count:
        raise DataError(f"{setting}={limit} asks for more rows than there are ({count}): write {count} or less.")
    return tuple(conversations[row] for row in draw_rows(range(count), limit, seed))


def write_training_rows(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write rows as JSONL of `messages` for a child process."""
    path.write_bytes(b"".join(encode_file_lines(conversations)))


def show_terms(name: str, licence: str, terms: str) -> None:
    """Print the terms of a restricted set unless this user has seen them, for this set or one with the same terms."""
    seen = find_cache_folder() / "terms" / digest([licence, terms])[:16]
    if not terms or seen.exists():
        return
    print(f"Terms of {name} (licence: {licence or 'none stated'}): {' '.join(terms.split())}")
    with suppress(OSError):  # without a writable cache em shows the terms again next time
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
