"""The registry of data sets and question sets: find a set by name, locate it, read the local ones."""

from __future__ import annotations

import re
from pathlib import Path

from em.config import BundledData, DataConfig, FileData, HubData, UpstreamData
from em.data.fetch import Source, locate_copy
from em.data.files import SUFFIXES
from em.data.registry import DataSet, read_data_sets
from em.errors import EmError, MissingFile, did_you_mean
from em.questions.sets import KnownSet, list_bundled_sets, load_set, read_known_sets
from em.types import Question

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_set_source(config: DataConfig | KnownSet) -> Source | None:
    """Return the file from which em fetches a set; None for a bundled set, a hub set or a user's own file."""
    match config:
        case UpstreamData():
            return Source(config.url, config.sha256, config.bytes)
        case KnownSet():
            return config.source
        case _:
            return None


def list_sources() -> dict[str, Source]:
    """List every third-party file, by the name of the first set that uses it."""
    sets: dict[str, DataConfig | KnownSet] = {name: data_set.config for name, data_set in read_data_sets().items()}
    names: dict[Source, str] = {}
    for name, config in {**sets, **read_known_sets()}.items():
        if source := find_set_source(config):
            names.setdefault(source, name)
    return {name: source for source, name in names.items()}


def describe_location(config: DataConfig | KnownSet) -> str:
    """Say where a set is: in em, in the cache, in the mirror folder, to be fetched, on the hub, or with the user."""
    if source := find_set_source(config):
        return locate_copy(source) or "to fetch"
    match config:
        case HubData():
            return "the hub, or the folder that is named"
        case BundledData():
            return "in em"
        case _:
            return "yours"


def find_set(name: str) -> DataSet | KnownSet | str:
    """Find a set by name: a data set, a third-party question set, or the name of a bundled question set.

    A file is a user's data set; a folder or OWNER/NAME is a hub data set. Raises MissingFile with similar names.
    """
    sets, question_sets = read_data_sets(), read_known_sets()
    if name in sets:
        return sets[name]
    if name in question_sets:
        return question_sets[name]
    if name in list_bundled_sets():
        return name
    if Path(name).expanduser().is_file():
        return DataSet(FileData(name=Path(name).stem, path=name), "A file of yours.")
    has_data_suffix = Path(name.removesuffix(".gz")).suffix in SUFFIXES
    if Path(name).expanduser().is_dir() or (HUB_NAME.fullmatch(name) and not has_data_suffix):
        return DataSet(HubData(name=Path(name).name, id=name), "A data set of the Hugging Face hub.")
    hint = did_you_mean(name, [*sets, *question_sets, *list_bundled_sets()], "em data list prints the names.")
    raise MissingFile(f"{name} is neither a set that em knows nor a file: {hint}")


def load_local_questions() -> tuple[list[Question], list[str]]:
    """Load the questions of all local sets, and list the names of the other sets; fetch nothing."""
    questions: list[Question] = []
    missing = [name for name, known_set in read_known_sets().items() if describe_location(known_set) == "to fetch"]
    for name in [*list_bundled_sets(), *read_known_sets()]:
        if name not in missing:
            try:
                questions += load_set(name)
            except EmError:
                missing.append(name)
    return questions, missing
