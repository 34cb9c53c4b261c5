"""The sets that em knows: the options of `conf/data`, and the question sets, with where each can be had.

The options are read as plain YAML, so that the registry can be looked at without Hydra; a test keeps the two readings
equal.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import GROUPS, MISSING, BundledData, DataConfig, DataKind, FileData, HubData, OnBadRow, UpstreamData
from em.data.files import SUFFIXES
from em.errors import EmError, MissingFile
from em.questions.known import KnownSet, known_sets
from em.questions.sets import BUNDLED as QUESTIONS
from em.questions.sets import load_set
from em.types import Question
from em.upstream import at_hand

CONF = Path(__file__).parents[2] / "conf" / "data"
ENUMS: dict[str, Any] = {"kind": DataKind, "on_bad_row": OnBadRow}
SCHEMA = "/schema/"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Source:
    """A file of others: where it is published, and which it must be."""

    url: str
    sha256: str
    bytes: int | None


@dataclass(frozen=True)
class DataSet:
    """A data option and what its file says about it in its first lines."""

    config: DataConfig
    about: str


def read_option(name: str) -> DataSet:
    """An option of `conf/data`. Parts of mixtures are left out."""
    import yaml

    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    about = [line.removeprefix("#").strip() for line in text.split("\n") if line.startswith("#")]
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    defaults: list[Any] = values.pop("defaults")
    schema: Any = DataConfig
    given: dict[str, Any] = {}
    for entry in defaults:
        if isinstance(entry, str) and entry.startswith(SCHEMA):
            wanted = entry.removeprefix(SCHEMA).partition("@")[0]
            schema = next(each for each in GROUPS["data"] if each.__name__ == wanted)
        elif isinstance(entry, str) and entry != "_self_":
            before = read_option(entry).config
            schema, given = type(before), dict(vars(before))
    for key, kind in ENUMS.items():
        if key in values:
            values[key] = kind(values[key])
    return DataSet(schema(**{**given, **values}), " ".join(about))


def data_sets() -> dict[str, DataSet]:
    """All sets of rows by name, without mixtures and without the options for a user's own."""
    found = {path.stem: read_option(path.stem) for path in sorted(CONF.glob("*.yaml"))}
    return {name: each for name, each in found.items() if is_known(each.config)}


def is_known(config: DataConfig) -> bool:
    """Whether an option stands for one particular set."""
    return isinstance(config, BundledData | UpstreamData) or (isinstance(config, FileData) and bool(config.source))


def bundled_questions() -> list[str]:
    """The question sets that come with em."""
    return sorted(file.stem for file in QUESTIONS.glob("*.yaml"))


def source_of(config: DataConfig | KnownSet) -> Source | None:
    """Where a set can be fetched; None for those that come with em or from a user's own file."""
    if isinstance(config, UpstreamData | KnownSet):
        return Source(config.url, config.sha256, config.bytes)
    return None


def all_sources() -> dict[str, Source]:
    """Every file of others, by the name of the first set that is read from it."""
    options: dict[str, DataConfig | KnownSet] = {name: each.config for name, each in data_sets().items()}
    found: dict[str, Source] = {}
    for name, each in {**options, **known_sets()}.items():
        source = source_of(each)
        if source and source.url not in {known.url for known in found.values()}:
            found[name] = source
    return found


def where_is(config: DataConfig | KnownSet) -> str:
    """Where a set is: in em, in the cache, in the mirror folder, to be fetched, on the hub, or for the user to name."""
    if source := source_of(config):
        return at_hand(source.url, source.bytes) or "to fetch"
    if isinstance(config, HubData):
        return "the hub, or the folder that is named"
    return "in em" if isinstance(config, BundledData) else "yours"


def find_set(name: str) -> DataSet | KnownSet | str:
    """What a name stands for: a data set, a question set of others, or one of em's own (its name).

    A path of a file is a data set of the user's; a folder, or OWNER/NAME, is one of the Hugging Face hub.

    Raises:
        MissingFile: nothing of that name, with near names.
    """
    sets, known = data_sets(), known_sets()
    if name in sets:
        return sets[name]
    if name in known:
        return known[name]
    if name in bundled_questions():
        return name
    if Path(name).expanduser().is_file():
        return DataSet(FileData(name=Path(name).stem, path=name), "A file of yours.")
    of_file = Path(name.removesuffix(".gz")).suffix in SUFFIXES
    if Path(name).expanduser().is_dir() or (HUB_NAME.fullmatch(name) and not of_file):
        return DataSet(HubData(name=Path(name).name, id=name), "A data set of the Hugging Face hub.")
    names = [*sets, *known, *bundled_questions()]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "python -m em.data list prints the names."
    raise MissingFile(f"{name} is neither a set that em knows nor a file: {hint}")


def is_named(config: DataConfig) -> bool:
    """Whether the file of a set that is the user's own was named."""
    return not isinstance(config, FileData) or config.path != MISSING


def questions_here() -> tuple[list[Question], list[str]]:
    """The questions of all sets that are on this machine, and the names of those that aren't (nothing is fetched)."""
    here: list[Question] = []
    unseen = []
    for name in [*bundled_questions(), *known_sets()]:
        known = known_sets().get(name)
        try:
            if known and where_is(known) == "to fetch":
                unseen.append(name)
            else:
                here += load_set(name)
        except EmError:
            unseen.append(name)
    return here, unseen
