"""The sets of rows that em knows: the options of `conf/data`.

The options are read as plain YAML, so that the registry can be looked at without Hydra; a test keeps the two readings
equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from em.config import GROUPS, MISSING, DataConfig, DataKind, FileData, OnBadRow
from em.config.paths import CONF

OPTIONS = CONF / "data"
ENUMS: dict[str, Any] = {"kind": DataKind, "on_bad_row": OnBadRow}
SCHEMA = "/schema/"


@dataclass(frozen=True)
class DataSet:
    """A data option and what its file says about it in its first lines."""

    config: DataConfig
    about: str


def read_option(name: str) -> DataSet:
    """An option of `conf/data`. Parts of mixtures are left out."""
    import yaml

    text = (OPTIONS / f"{name}.yaml").read_text(encoding="utf-8")
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
    found = {path.stem: read_option(path.stem) for path in sorted(OPTIONS.glob("*.yaml"))}
    return {name: each for name, each in found.items() if is_known(each.config)}


def is_known(config: DataConfig) -> bool:
    """Return whether an option stands for one particular set."""
    match config:
        case FileData():
            return bool(config.source)
        case _:
            return config.pinned and not config.empty and not config.mixed


def is_named(config: DataConfig) -> bool:
    """Return whether the file of a set that is the user's own was named."""
    match config:
        case FileData():
            return bool(config.path != MISSING)
        case _:
            return True
