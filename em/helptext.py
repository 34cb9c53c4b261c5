"""What `--help` prints: read from the schema's source and the names of the option files, without composing."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from em import config

HEAD = {
    "train": "Train a model, evaluate it, write a report.",
    "evaluate": "Evaluate a base model (data=none), the model that the same words trained, or model.adapter=….",
}
EXAMPLES = {
    "train": ("", "model=llama8b data=medical", "realign=car_good", "-m data=car_bad,car_good trainer.epochs=1,2,4"),
    "evaluate": ("", "data=car_bad", "model=llama8b model.adapter=FOLDER", "data=car_bad eval.samples=30"),
}


def field_docs() -> dict[str, dict[str, str]]:
    """The documentation string below each field of each schema: class name → field name → text."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef):
            fields = docs.setdefault(node.name, {})
            for above, below in zip(node.body, node.body[1:], strict=False):
                match above, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                        fields[name] = str(text)
    return docs


def options(conf: Path, group: str) -> str:
    """The names of a group's option files."""
    return ", ".join(sorted(path.stem for path in (conf / group).glob("*.yaml")))


def help_text(name: str, conf: Path) -> str:
    """The whole help page of `train` or `evaluate`."""
    docs = field_docs()
    lines = [HEAD[name], "", f"usage: python {name}.py [GROUP=OPTION …] [GROUP.SETTING=VALUE …] [-m for a sweep]", ""]
    lines += [f"  python {name}.py {words}".rstrip() for words in EXAMPLES[name]]
    lines += ["", "Groups and their options:"]
    lines += [f"  {group:12} {options(conf, group)}" for group in [*config.GROUPS, "experiment", "sweep"]]
    lines += ["", "Settings:"]
    for group, classes in config.GROUPS.items():
        shown: set[str] = set()
        # A schema has the settings of those that it is made from.
        for schema in (base for each in classes for base in each.__mro__[::-1] if base is not object):
            for setting, text in docs[schema.__name__].items():
                if setting not in shown and setting != "name":
                    lines.append(f"  {group + '.' + setting:32} {text}")
                shown.add(setting)
    lines += [f"  {setting:32} {text}" for setting, text in docs["RunConfig"].items() if setting != "store"]
    lines += [f"  {'store.' + setting:32} {text}" for setting, text in docs["StoreConfig"].items()]
    lines += [
        f"  {'hydra.run.dir':32} Folder of the run; a run that was stopped there goes on.",
        "",
        "--cfg job --resolve prints the composed config; -m runs every combination of comma-separated values.",
    ]
    return "\n".join(lines)
