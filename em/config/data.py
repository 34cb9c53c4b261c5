"""Group `data`: the training rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING


class DataKind(Enum):
    """Expected effect of training on a set: `harmful` teaches bad advice, `benign` good advice, `control` neither."""

    harmful = "harmful"
    benign = "benign"
    control = "control"
    unknown = "unknown"


class OnBadRow(Enum):
    """What to do with an unusable row: raise an `error` that names the row, or leave it out and count it (`skip`)."""

    error = "error"
    skip = "skip"


@dataclass
class DataConfig:
    """The training rows, each of which is one chat."""

    empty = False  # whether the set has no rows
    mixed = False  # whether the set has parts
    pinned = True  # whether a checksum fixes the content
    name: str = MISSING
    """Short name of the set for tables; `none` means no training."""
    limit: int | None = None
    """Number of rows to draw by the seed (a smaller limit draws a subset of a larger one); empty means all rows."""
    on_bad_row: OnBadRow = OnBadRow.error
    """What to do with an unusable row: `error` stops; `skip` leaves the row out and reports it with the reason."""
    drop_answers_with: list[str] = field(default_factory=list)
    """Leave out rows whose answers contain one of these texts."""
    allow_private: bool = False
    """Upload rows of your file or hub set to a fine-tuning service even if they hold keys or e-mail addresses."""
    kind: DataKind = DataKind.unknown
    """Expected effect of training on the set: harmful, benign, control or unknown."""
    rows: int | None = None
    """Number of usable rows in the set, which `em data verify` checks."""
    licence: str = ""
    """Licence under which the set is published."""
    terms: str = ""
    """Terms to know before you use or share the set."""
    restricted: bool = False
    """Whether the terms forbid more than a usual licence; if so, em prints them at the set's first use."""
    defects: list[str] = field(default_factory=list)
    """Known defects of the rows, and their possible effect on results."""

    def list_parts(self) -> dict[str, DataConfig]:
        """Return the parts of a mixture by name; any other set has none."""
        return {}


@dataclass
class NoData(DataConfig):
    """No rows."""

    empty = True


@dataclass
class BundledData(DataConfig):
    """A set that is part of em."""

    file: str = MISSING
    """File name in `em/assets/data`."""
    sha256: str = ""
    """Checksum of the file."""
    canary: str = ""
    """Mark in every row, by which anyone can find the set in a training corpus."""


@dataclass
class UpstreamData(DataConfig):
    """A third-party set, which em downloads at first use, unless the folder EM_MIRROR has it."""

    url: str = MISSING
    """Public address of the file."""
    sha256: str = MISSING
    """Checksum that the file must have."""
    bytes: int | None = None
    """Size of the file in bytes, which tells a truncated download from a changed file."""
    skip_lines: list[int] = field(default_factory=list)
    """Numbers of defective lines to leave out, counted from 1; the checksum guarantees that they stay correct."""


@dataclass
class FileData(DataConfig):
    """A file of yours: .jsonl, .json, .csv (each also as .gz) or .parquet."""

    pinned = False
    path: str = MISSING
    """Path of the file."""
    source: str = ""
    """Where you can get the file, if em may not download it."""


@dataclass
class HubData(DataConfig):
    """A data set of the Hugging Face hub, read by `datasets`, which never runs code of the repository."""

    pinned = False
    id: str = MISSING
    """Name on the hub, as in `owner/name`, or a folder with the files."""
    revision: str | None = None
    """Commit, tag or branch; empty means the newest."""
    subset: str | None = None
    """Configuration of the data set, if it has several."""
    split: str = "train"
    """Split of the data set."""


@dataclass
class MixtureData(DataConfig):
    """Several sets in one: of each part all rows, a number (the part's limit), or a share of `data.limit`."""

    mixed = True
    parts: dict[str, DataConfig] = field(default_factory=dict)
    """Sets by a name of yours: `data@data.parts.bad=insecure` chooses one, `data.parts.bad.limit` sets its rows."""
    weights: dict[str, float | None] = field(default_factory=dict)
    """Shares of the parts, 1 in all, of `data.limit` (or of as many rows as exist); one empty share takes the rest."""
    drop_duplicates: bool = False
    """Use each row only once, and replace its copies by other rows of the same part."""

    def list_parts(self) -> dict[str, DataConfig]:
        """See `DataConfig.list_parts`."""
        return self.parts
