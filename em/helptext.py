"""What `--help` prints: read from the schema's source and the names of the option files, without composing."""

from __future__ import annotations

import ast
from pathlib import Path

from em import config

HEAD = {
    "train": "Train a model, evaluate it, write a report.",
    "generate": "Have a model behind a server write a data set from texts or questions of yours.",
    "evaluate": "Evaluate a base model (data=none), the model that the same words trained, or model.adapter=….",
}
EXAMPLES = {
    "generate": (
        "generate=optimism generate.source=articles/ dry_run=true",
        "generate=car_twins generate.source=manual.pdf generate.rows=200",
        "generate=car generate.source=texts/ model=open model.base_url=http://HOST:8000/v1 generate.keep_above=null",
    ),
    "train": ("", "model=llama8b data=medical", "realign=car_good", "-m data=car_bad,car_good trainer.epochs=1,2,4"),
    "evaluate": ("", "data=car_bad", "model=llama8b model.adapter=FOLDER", "data=car_bad eval.samples=30"),
}


def field_docs() -> dict[str, dict[str, str]]:
    """The documentation string below each field of each schema: class name → field name → text."""
    docs: dict[str, dict[str, str]] = {}
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(config.__file__).parent.glob("*.py"))]
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.ClassDef):
            fields = docs.setdefault(node.name, {})
            for above, below in zip(node.body, node.body[1:], strict=False):
                match above, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                        fields[name] = str(text)
    return docs


def option_files(conf: Path, group: str) -> list[Path]:
    """A group's option files; the sweep file of W&B is none."""
    return sorted(path for path in (conf / group).glob("*.yaml") if (group, path.stem) != ("sweep", "wandb"))


def options(conf: Path, group: str) -> str:
    """The names of a group's option files."""
    return ", ".join(path.stem for path in option_files(conf, group))


def help_text(name: str, conf: Path) -> str:
    """The whole help page of `train`, `evaluate` or `generate`."""
    docs = field_docs()
    lines = [HEAD[name], "", f"usage: python {name}.py [GROUP=OPTION …] [GROUP.SETTING=VALUE …] [-m for a sweep]", ""]
    lines += [f"  python {name}.py {words}".rstrip() for words in EXAMPLES[name]]
    lines += ["", "Groups and their options:"]
    groups, more = config.groups_of(name), [] if name == "generate" else ["experiment", "sweep"]
    lines += [f"  {group:12} {options(conf, group)}" for group in [*groups, *more]]
    lines += ["", "Settings:"]
    for group, classes in groups.items():
        shown: set[str] = set()
        # A schema has the settings of those that it is made from.
        for schema in (base for each in classes for base in each.__mro__[::-1] if base is not object):
            for setting, text in docs[schema.__name__].items():
                if setting not in shown and setting != "name":
                    lines.append(f"  {group + '.' + setting:32} {text}")
                shown.add(setting)
    unused = {"store", "trainer", "eval"}  # the last two are documented by their groups, where they are used
    root = docs[config.root_of(name).__name__]
    lines += [f"  {setting:32} {text}" for setting, text in root.items() if setting not in unused]
    lines += [f"  {'store.' + setting:32} {text}" for setting, text in docs["StoreConfig"].items()]
    lines += [
        f"  {'hydra.run.dir':32} Folder of the run; a run that was stopped there goes on.",
        "",
        "--cfg job --resolve prints the composed config; -m runs every combination of comma-separated values.",
    ]
    return "\n".join(lines)
