"""The registry of training sets: the options of `conf/data`.

em reads the options as plain YAML, so that the registry needs no Hydra; a test checks that Hydra reads the same.
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
    """A data option, and the description in the first lines of its file."""

    config: DataConfig
    about: str


def read_option(name: str) -> DataSet:
    """Read an option of `conf/data`, without the parts of a mixture."""
    import yaml

    text = (OPTIONS / f"{name}.yaml").read_text(encoding="utf-8")
    about = [line.removeprefix("#").strip() for line in text.split("\n") if line.startswith("#")]
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    defaults: list[Any] = values.pop("defaults")
    schema: Any = DataConfig
    inherited: dict[str, Any] = {}
    for entry in defaults:
        if isinstance(entry, str) and entry.startswith(SCHEMA):
            class_name = entry.removeprefix(SCHEMA).partition("@")[0]
            schema = next(option for option in GROUPS["data"] if option.__name__ == class_name)
        elif isinstance(entry, str) and entry != "_self_":
            base = read_option(entry).config
            schema, inherited = type(base), dict(vars(base))
    for key, kind in ENUMS.items():
        if key in values:
            values[key] = kind(values[key])
    return DataSet(schema(**{**inherited, **values}), " ".join(about))


def read_data_sets() -> dict[str, DataSet]:
    """Read all training sets by name, without mixtures and without the options for a user's own set."""
    options = {path.stem: read_option(path.stem) for path in sorted(OPTIONS.glob("*.yaml"))}
    return {name: option for name, option in options.items() if is_known(option.config)}


def is_known(config: DataConfig) -> bool:
    """Return whether an option stands for one particular set."""
    match config:
        case FileData():
            return bool(config.source)
        case _:
            return config.pinned and not config.empty and not config.mixed


def is_named(config: DataConfig) -> bool:
    """Return whether the config names the file that a user's own set needs."""
    match config:
        case FileData():
            return bool(config.path != MISSING)
        case _:
            return True
