"""The sets that em knows, of rows and of questions: find one by name, tell where it is, read what is here."""

from __future__ import annotations

import re
from pathlib import Path

from em.config import BundledData, DataConfig, FileData, HubData, UpstreamData
from em.data.fetch import Source, at_hand
from em.data.files import SUFFIXES
from em.data.registry import DataSet, data_sets
from em.errors import EmError, MissingFile, did_you_mean
from em.questions.sets import KnownSet, bundled_sets, known_sets, load_set
from em.types import Question

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def source_of(config: DataConfig | KnownSet) -> Source | None:
    """Say where a set can be fetched; None for those that come with em or from a user's own file."""
    match config:
        case UpstreamData():
            return Source(config.url, config.sha256, config.bytes)
        case KnownSet():
            return config.source
        case _:
            return None


def all_sources() -> dict[str, Source]:
    """List every file of others, by the name of the first set that is read from it."""
    sets: dict[str, DataConfig | KnownSet] = {name: each.config for name, each in data_sets().items()}
    names: dict[Source, str] = {}
    for name, each in {**sets, **known_sets()}.items():
        if source := source_of(each):
            names.setdefault(source, name)
    return {name: source for source, name in names.items()}


def where_is(config: DataConfig | KnownSet) -> str:
    """Say where a set is: in em, in the cache, in the mirror folder, to be fetched, on the hub, or the user's."""
    if source := source_of(config):
        return at_hand(source) or "to fetch"
    match config:
        case HubData():
            return "the hub, or the folder that is named"
        case BundledData():
            return "in em"
        case _:
            return "yours"


def find_set(name: str) -> DataSet | KnownSet | str:
    """Find what a name stands for: a data set, a question set of others, or one of em's own (its name).

    A file is a data set of the user's; a folder, or OWNER/NAME, is one of the hub. Raises MissingFile with near names.
    """
    sets, known = data_sets(), known_sets()
    if name in sets:
        return sets[name]
    if name in known:
        return known[name]
    if name in bundled_sets():
        return name
    if Path(name).expanduser().is_file():
        return DataSet(FileData(name=Path(name).stem, path=name), "A file of yours.")
    of_file = Path(name.removesuffix(".gz")).suffix in SUFFIXES
    if Path(name).expanduser().is_dir() or (HUB_NAME.fullmatch(name) and not of_file):
        return DataSet(HubData(name=Path(name).name, id=name), "A data set of the Hugging Face hub.")
    hint = did_you_mean(name, [*sets, *known, *bundled_sets()], "em data list prints the names.")
    raise MissingFile(f"{name} is neither a set that em knows nor a file: {hint}")


def questions_here() -> tuple[list[Question], list[str]]:
    """The questions of all sets that are on this machine, and the names of those that aren't (nothing is fetched)."""
    here: list[Question] = []
    unseen = [name for name, known in known_sets().items() if where_is(known) == "to fetch"]
    for name in [*bundled_sets(), *known_sets()]:
        if name not in unseen:
            try:
                here += load_set(name)
            except EmError:
                unseen.append(name)
    return here, unseen
