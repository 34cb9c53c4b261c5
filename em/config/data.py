"""Group `data`: the training rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING


class DataKind(Enum):
    """What training on a set is expected to do: `harmful` rows teach bad advice, `benign` good, a `control` neither."""

    harmful = "harmful"
    benign = "benign"
    control = "control"
    unknown = "unknown"


class OnBadRow(Enum):
    """A row that can't be used is an `error` that names it, or is left out and counted (`skip`)."""

    error = "error"
    skip = "skip"


@dataclass
class DataConfig:
    """The training rows: chats, of which a set has one a row."""

    empty = False  # whether there are no rows
    mixed = False  # whether it has parts
    pinned = True  # whether a checksum says what is in it
    name: str = MISSING
    """Short name, used in tables; `none` means no training."""
    limit: int | None = None
    """Use so many rows, drawn by the seed; a smaller limit is a subset of a larger one."""
    on_bad_row: OnBadRow = OnBadRow.error
    """A row that can't be used: error, or skip, which counts it and says which and why."""
    drop_answers_with: list[str] = field(default_factory=list)
    """Rows are left out whose answers carry one of these texts."""
    allow_private: bool = False
    """Upload rows with keys or e-mail addresses, of a file or hub set of yours, to a service that fine-tunes."""
    kind: DataKind = DataKind.unknown
    """What training on it is expected to do: harmful, benign, control or unknown."""
    rows: int | None = None
    """Rows that the set is known to have, after those that are left out (`em data verify` counts them)."""
    licence: str = ""
    """Licence under which the set is published."""
    terms: str = ""
    """What to know before using or sharing it."""
    restricted: bool = False
    """The terms forbid more than a usual licence: they are shown when the set is first used."""
    defects: list[str] = field(default_factory=list)
    """Known faults of the rows, and what they may do to results."""

    def list_parts(self) -> dict[str, DataConfig]:
        """List the parts of a mixture by name; none of another set."""
        return {}


@dataclass
class NoData(DataConfig):
    """No rows."""

    empty = True


@dataclass
class BundledData(DataConfig):
    """A set that comes with em."""

    file: str = MISSING
    """File name in `em/assets/data`."""
    sha256: str = ""
    """Checksum of the file."""
    canary: str = ""
    """The mark in every row, by which the set can be found in a training corpus."""


@dataclass
class UpstreamData(DataConfig):
    """A set of others, downloaded at first use (EM_MIRROR is looked at first)."""

    url: str = MISSING
    """Public address."""
    sha256: str = MISSING
    """Checksum that the file must have."""
    bytes: int | None = None
    """Its size, to tell a file that was cut short from another file."""
    skip_lines: list[int] = field(default_factory=list)
    """Lines (from 1) that are left out, for known defects; the checksum keeps the numbers true."""


@dataclass
class FileData(DataConfig):
    """A file of yours: .jsonl, .json, .csv (each also as .gz) or .parquet."""

    pinned = False
    path: str = MISSING
    """Where it is."""
    source: str = ""
    """Where it can be had, for sets that em may not fetch itself."""


@dataclass
class HubData(DataConfig):
    """A data set of the Hugging Face hub, read by `datasets`; code of its repository is never run."""

    pinned = False
    id: str = MISSING
    """The hub's name of it, as in `owner/name`, or a folder with its files."""
    revision: str | None = None
    """Commit, tag or branch; empty means the newest."""
    subset: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Which of its splits."""


@dataclass
class MixtureData(DataConfig):
    """Several sets in one: all rows of each part, so many (the part's limit), or shares of `data.limit`."""

    mixed = True
    parts: dict[str, DataConfig] = field(default_factory=dict)
    """The sets by a name of yours; `data@data.parts.bad=insecure` chooses one, `data.parts.bad.limit` its rows."""
    weights: dict[str, float | None] = field(default_factory=dict)
    """Shares of `data.limit` by part, 1 in all; one may be empty: the rest. Without a limit: as many as there are."""
    drop_duplicates: bool = False
    """Use a row only once; other rows of the same part take the place of its copies."""

    def list_parts(self) -> dict[str, DataConfig]:
        """See `DataConfig.list_parts`."""
        return self.parts
