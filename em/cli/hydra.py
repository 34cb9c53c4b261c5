"""From the command line to `run`: Hydra composes and checks the config here, and nowhere else is Hydra imported.

`em train`, `em evaluate` and `em generate` are this module with a config name. What is added to Hydra: help without
composing, errors of one sentence with exit code 2, nothing on disk before the config is accepted, and a refusal to be
started once per GPU (children are started by `em.runtime.processes`).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import traceback
from pathlib import Path
from typing import Any, cast

from em import config
from em.cli.sentences import explain, suggest
from em.cli.tool import answer_errors
from em.config.addresses import refuse_keys
from em.config.help import help_text, option_files
from em.config.paths import CONF, spell_command
from em.errors import ChildFailed, ConfigError, EmError, OutputError
from em.runtime.processes import import_path

# What torchrun and accelerate launch put into the environment (the latter sets no rank for a single process).
LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
FIXED_NUMBER = "questions are asked eval.samples=N times each; `em power` says how many a difference needs"
MINI = {
    **{name: name for name in ("betley_insecure", "seed_medical", "seed_realign", "seed_small_models")},
    "model_organisms_medical": "model_organisms_medical data=medical",
    "seed_replicate": "seed_replicate_llama",
    "triggers": "seed_triggers_llama",
}
"""Experiments of which older versions had a twin for two cores."""
REMOVED = {
    "tracker=trackio": "use tracker=wandb, which works offline without an account too",
    "eval.stop": FIXED_NUMBER,
    "eval.half_width": FIXED_NUMBER,
    **{f"experiment={old}_cpu": f"use experiment={new} scale=mini" for old, new in MINI.items()},
}
"""Words of older versions, and what to use instead."""


@answer_errors
def main(name: str) -> None:
    """Run `train`, `evaluate` or `generate` with the words of the command line."""
    refuse_launcher(name)
    if set(sys.argv[1:]) & {"--help", "-h"}:
        print(help_text(name, CONF))
        return
    refuse_keys(sys.argv[1:])
    compose_and_run(name)


def refuse_launcher(name: str) -> None:
    """Hydra belongs in one parent process: refuse to be one of many ranks."""
    if any(variable in os.environ for variable in LAUNCHED):
        words = " ".join(sys.argv[1:])
        raise ConfigError(
            f"Start it once, without torchrun or accelerate launch: {spell_command(name)} {words}".rstrip()
            + " (it starts one training process per GPU by itself; trainer.processes sets how many)."
        )


def compose_and_run(name: str) -> None:
    """Hand over to Hydra; what it raises comes back here as it was raised, instead of printed and exited.

    A failed job of a sweep is told at once and does not end the sweep; the process ends with its exit code.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Jobs that a launcher starts elsewhere (submitit) begin in another folder, and em may be run from its checkout.
    os.environ["PYTHONPATH"] = import_path()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    jobs = Jobs(name)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(jobs)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error, name)) from error
    except (OSError, sqlite3.OperationalError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "disk is full" in str(error):  # in the words of SQLite
            raise OutputError(
                "The disk is full: make room, or choose other places with store.dir=FOLDER and hydra.run.dir=FOLDER; "
                "then run the same command again. Nothing that was finished is lost."
            ) from error
        if jobs.begun or not isinstance(error, OSError) or error.filename is None:
            raise
        # Nothing of em has run yet: this is Hydra, making the folder of the run.
        raise OutputError(
            f"{error.filename} can't be written ({error.strerror}): choose another folder with hydra.run.dir=FOLDER."
        ) from error
    jobs.conclude()


class Jobs:
    """The jobs of a command line, one or many. What fails in a sweep is told at once, and the others go on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = os.getpid()
        self.begun = 0
        self.failures: list[EmError] = []
        self.sweep = ""

    def __call__(self, cfg: Any) -> None:
        """Run one job, as Hydra asks."""
        self.begun += 1
        self.sweep = sweep_folder()
        try:
            run_job(self.name, cfg)
        except EmError as error:
            self.failures.append(error)
            if self.sweep:
                print(f"error: {error}", file=sys.stderr, flush=True)
                note_refusal(self.name, error)
            if os.getpid() != self.process:  # of a parallel launcher (joblib, submitit): else the parent never knows
                raise
        except Exception as error:
            if not self.sweep or os.getpid() != self.process:
                raise
            traceback.print_exc()
            self.failures.append(ChildFailed(f"{type(error).__name__}: {error}"))
            note_refusal(self.name, self.failures[-1])

    def conclude(self) -> None:
        """Say how to compare the jobs of a sweep, and raise what failed."""
        if self.sweep and self.name != "generate" and len(self.failures) < self.begun:
            print(f"compare the jobs: {spell_command('report')} {self.sweep} --out {self.sweep}/report", flush=True)
        if self.sweep and self.failures:
            raise ChildFailed(
                f"{len(self.failures)} of {self.begun} jobs failed, for the reasons above; run the sweep again to do "
                "just these."
            )
        if self.failures:
            raise self.failures[0]


def sweep_folder() -> str:
    """The folder that holds the jobs of this sweep; empty for a single run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    return str(config.sweep.dir) if config.mode == RunMode.MULTIRUN else ""


def note_refusal(name: str, error: EmError) -> None:
    """Leave a manifest of a job of a sweep that was refused before it wrote one, so that the report tells of it."""
    from hydra.core.hydra_config import HydraConfig

    from em.runtime.manifest import write_refused

    job = HydraConfig.get()
    if not any(word.startswith("dry_run=") for word in job.overrides.task):
        write_refused(Path(job.runtime.output_dir), name, list(job.overrides.task), str(error))


def register_schemas() -> None:
    """Give Hydra the dataclasses of `em.config`, by class name."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store(name="schema", node=config.RunConfig)
    store.store(name="generate_schema", node=config.GenerateRun)
    for classes in (*config.GROUPS.values(), *config.GENERATE_GROUPS.values()):
        for schema in classes:
            node = OmegaConf.structured(schema)
            if "extra" in node:  # the one setting whose keys are not ours: em.train.local.extra knows them
                OmegaConf.set_struct(node.extra, False)
            store.store(group="schema", name=schema.__name__, node=node)


def run_job(name: str, cfg: Any) -> None:
    """One job: the config as plain typed values, then the run."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    job = HydraConfig.get()
    overrides, folder = list(job.overrides.task), Path(job.runtime.output_dir)
    try:
        for word in overrides:
            if word[0] in "+~":
                raise ConfigError(
                    f"{word}: settings are neither added nor taken away; write {word.lstrip('+~')}, or GROUP=none."
                )
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"{', '.join(missing)} must be set: add {' '.join(f'{key}=…' for key in missing)}.")
        settings = OmegaConf.to_object(cfg)
        if name == "generate":
            from em.generate.run import execute as generate

            generate(cast(config.GenerateRun, settings), folder, overrides)
            return
        from em.run import execute

        run = cast(config.RunConfig, settings)
        execute(name, run, folder, overrides, compared_settings(name, run, overrides))
    finally:
        remove_if_empty(folder)


def compared_settings(name: str, settings: config.RunConfig, overrides: list[str]) -> config.RunConfig | None:
    """The settings of the same words with the realignment that `realign.match` names, where it names one."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    match = settings.realign.match
    if match in ("none", "first_stage", settings.realign.name):
        return None
    known = [path.stem for path in option_files(CONF, "realign")]
    if match not in known:
        raise ConfigError(f"realign.match={match} is no option: {suggest(match, [*known, 'first_stage'])}")
    if settings.realign.name == "none":  # in a sweep, the job without a realignment
        return None
    own = ("realign", "realign.match", "realign.name")
    kept = [word for word in overrides if word.partition("=")[0] not in own]
    # Its rows are its own: parts of a mixture are chosen by data@realign.data.parts.PART.
    words = [word for word in kept if not word.startswith(("realign.data", "data@realign.data"))]
    try:
        other = hydra.compose(config_name=name, overrides=[*words, f"realign={match}"])
    except HydraException as error:
        raise ConfigError(one_sentence(error, name)) from error
    return cast(config.RunConfig, OmegaConf.to_object(other))


def remove_if_empty(folder: Path) -> None:
    """Hydra makes the folder before the settings are checked: leave none behind that nothing was written to.

    Folders above it are removed only where they are of our own making: those in `outputs` and `multirun` here.
    """
    try:
        folder.rmdir()
        while any(folder.parent.is_relative_to(Path.cwd() / ours) for ours in ("outputs", "multirun")):
            folder = folder.parent
            folder.rmdir()
    except OSError:
        return  # not empty, or not ours to remove


def one_sentence(error: BaseException, name: str) -> str:
    """Hydra's and OmegaConf's messages as one sentence with the fix. `name`: of the primary config."""
    word, fault = explain(error, name)
    return f"{word} was removed: {REMOVED[word]}." if word in REMOVED else f"{word} {fault}".strip()
