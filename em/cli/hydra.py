"""From the command line to `em.run`: Hydra composes and checks the config. Only this module of em imports Hydra.

`em train`, `em evaluate` and `em generate` call this module with a config name. It adds to Hydra: help without
composing, errors of one sentence with exit code 2, no files before the config is accepted, and a refusal to run once
per GPU under a launcher (`em.runtime.processes` starts the child processes).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from em import config
from em.cli.sentences import explain_quoting, explain_refused_word, keep_texts, offer_alternatives
from em.cli.tool import handle_errors
from em.config.addresses import refuse_keys
from em.config.help import list_option_files, render_help
from em.config.paths import CONF, spell_command
from em.errors import ChildFailed, ConfigError, EmError, OutputError
from em.runtime.processes import make_python_path

# Variables that torchrun and accelerate launch set (the latter sets no rank for a single process).
LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
FIXED_NUMBER = "eval.samples=N sets how often each question is asked; `em power` says how many to ask for"
MINI = {
    **{name: name for name in ("betley_insecure", "seed_medical", "seed_realign", "seed_small_models")},
    "model_organisms_medical": "model_organisms_medical data=medical",
    "seed_replicate": "seed_replicate_llama",
    "triggers": "seed_triggers_llama",
}
"""Experiments of which older versions had a variant for two cores: its name, and what to type instead."""
REMOVED = {
    "tracker=trackio": "use tracker=wandb, which works offline without an account too",
    "eval.stop": FIXED_NUMBER,
    "eval.half_width": FIXED_NUMBER,
    **{f"experiment={old}_cpu": f"use experiment={new} scale=mini" for old, new in MINI.items()},
}
"""Command-line words of older versions, and what to use instead."""


@handle_errors
def main(name: str) -> None:
    """Run `train`, `evaluate` or `generate` with the words of the command line."""
    refuse_launcher(name)
    if set(sys.argv[1:]) & {"--help", "-h"}:
        print(render_help(name, CONF))
        return
    refuse_keys(sys.argv[1:])
    sys.argv[1:] = keep_texts(sys.argv[1:], name)
    compose_and_run(name)


def refuse_launcher(name: str) -> None:
    """Raise ConfigError if a launcher started this process: Hydra belongs in one parent process."""
    if any(variable in os.environ for variable in LAUNCHED):
        words = " ".join(sys.argv[1:])
        raise ConfigError(
            f"Start it once, without torchrun or accelerate launch: {spell_command(name)} {words}".rstrip()
            + " (it starts one training process per GPU by itself; trainer.processes sets how many)."
        )


def compose_and_run(name: str) -> None:
    """Let Hydra compose the config and run each job; turn the errors of Hydra, OmegaConf and a full disk into EmErrors.

    A failed job of a sweep is reported at once and does not end the sweep.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them and exiting
    # A launcher such as submitit starts jobs in another folder, where em is not importable from its checkout.
    os.environ["PYTHONPATH"] = make_python_path()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    jobs = Jobs(name)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(jobs)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(describe_error(error, name)) from error
    except (OSError, sqlite3.OperationalError) as error:
        no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_space or "disk is full" in str(error):  # SQLite's wording
            raise OutputError(
                "The disk is full: make room, or choose other places with store.dir=FOLDER and hydra.run.dir=FOLDER; "
                "then run the same command again. Nothing that was finished is lost."
            ) from error
        if jobs.begun or not isinstance(error, OSError) or error.filename is None:
            raise
        # No job has begun yet, so the error is from Hydra as it creates the folder of the run.
        raise OutputError(
            f"{error.filename} can't be written ({error.strerror}): choose another folder with hydra.run.dir=FOLDER."
        ) from error
    jobs.finish()


class Jobs:
    """The jobs of a command line, one or many. A failed job of a sweep is reported at once, and the others go on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = os.getpid()
        self.returns_errors = False
        self.begun = 0
        self.failures: list[EmError] = []
        self.sweep = ""

    def __call__(self, cfg: Any) -> EmError | None:
        """Run one job; Hydra calls this with its config. Return the error of a failed job.

        In a process of joblib or submitit the error is raised instead, so that the parent sees it, unless em's own
        launcher is the parent (`returns_errors`).
        """
        self.begun += 1
        self.sweep = find_sweep_folder()
        raises = os.getpid() != self.process and not self.returns_errors
        try:
            run_job(self.name, cfg)
            return None
        except EmError as error:
            failure = error
            if self.sweep:
                print(f"error: {error}", file=sys.stderr, flush=True)
        except Exception as error:
            if raises or not self.sweep:
                raise
            traceback.print_exc()
            failure = ChildFailed(f"{type(error).__name__}: {error}")
        if self.sweep:
            record_refusal(self.name, failure)
        if raises:
            raise failure
        self.failures.append(failure)
        return failure

    def add_results(self, sweep: str, errors: Sequence[EmError | None]) -> None:
        """Count the jobs of the folder `sweep` that other processes ran, by what `__call__` returned there."""
        self.sweep = sweep
        self.begun += len(errors)
        self.failures += [error for error in errors if error is not None]

    def finish(self) -> None:
        """Print how to compare the jobs of a sweep. Raises ChildFailed if some failed, or the error of a single run."""
        if self.sweep and self.name != "generate" and len(self.failures) < self.begun:
            print(f"compare the jobs: {spell_command('report')} {self.sweep} --out {self.sweep}/report", flush=True)
        if self.sweep and self.failures:
            raise ChildFailed(
                f"{len(self.failures)} of {self.begun} jobs failed, for the reasons above; run the sweep again to do "
                "just these."
            )
        if self.failures:
            raise self.failures[0]


def find_sweep_folder() -> str:
    """Return the folder of this sweep's jobs; empty for a single run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    return str(config.sweep.dir) if config.mode == RunMode.MULTIRUN else ""


def record_refusal(name: str, error: EmError) -> None:
    """Write a manifest for a sweep's job that failed before it wrote one, so that the report shows the failure."""
    from hydra.core.hydra_config import HydraConfig

    from em.runtime.manifest import write_refused_manifest

    job = HydraConfig.get()
    if not any(word.startswith("dry_run=") for word in job.overrides.task):
        write_refused_manifest(Path(job.runtime.output_dir), name, list(job.overrides.task), str(error))


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
            for name in {"extra", "extra_body"} & set(node):  # their keys are TRL's, or a server's
                OmegaConf.set_struct(node[name], False)
            store.store(group="schema", name=schema.__name__, node=node)


def needs_one_gpu(cfg: Any, words: Sequence[str]) -> bool:
    """Return whether a job of a sweep works on open weights and asks for no other number of GPUs.

    Args:
        words: the job's words of the command line.
    """
    from omegaconf import OmegaConf

    if not cfg.one_gpu and any(word.startswith("one_gpu=") for word in words):
        return False
    model, trainer = (cast(type, OmegaConf.get_type(cfg[group])) for group in ("model", "trainer"))
    if not issubclass(trainer, config.LocalTrainer):
        return issubclass(model, config.HfModel)
    return issubclass(model, config.HfModel) and not cfg.trainer.processes and cfg.trainer.accelerate is None


def run_job(name: str, cfg: Any) -> None:
    """Convert the config of one job to typed settings, and run the job."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    job = HydraConfig.get()
    overrides, folder = list(job.overrides.task), Path(job.runtime.output_dir)
    try:
        for word in overrides:
            if word[0] in "+~":
                raise ConfigError(
                    f"{word}: settings can't be added or removed; write {word.lstrip('+~')}, or GROUP=none."
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
        execute(name, run, folder, overrides, compose_compared_settings(name, run, overrides))
    finally:
        remove_if_empty(folder)


def compose_compared_settings(name: str, settings: config.RunConfig, overrides: list[str]) -> config.RunConfig | None:
    """Compose the same command line with the realignment that `realign.match` names; None if it names none."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    match = settings.realign.match
    if match in ("none", "first_stage", settings.realign.name):
        return None
    options = [path.stem for path in list_option_files(CONF, "realign")]
    if match not in options:
        raise ConfigError(f"realign.match={match} is no option: {offer_alternatives(match, [*options, 'first_stage'])}")
    if settings.realign.name == "none":  # in a sweep, the job without a realignment
        return None
    replaced = ("realign", "realign.match", "realign.name")
    words = [word for word in overrides if word.partition("=")[0] not in replaced]
    # The other realignment has its own rows; data@realign.data.parts.PART chooses the parts of a mixture.
    words = [word for word in words if not word.startswith(("realign.data", "data@realign.data"))]
    try:
        other = hydra.compose(config_name=name, overrides=[*words, f"realign={match}"])
    except HydraException as error:
        raise ConfigError(describe_error(error, name)) from error
    return cast(config.RunConfig, OmegaConf.to_object(other))


def remove_if_empty(folder: Path) -> None:
    """Remove the run's folder if it is empty, since Hydra creates it before em checks the settings.

    Of the folders above it, only those in `outputs` and `multirun` of the working folder are removed.
    """
    try:
        folder.rmdir()
        while any(folder.parent.is_relative_to(Path.cwd() / name) for name in ("outputs", "multirun")):
            folder = folder.parent
            folder.rmdir()
    except OSError:
        return  # not empty, or no permission


def describe_error(error: BaseException, name: str) -> str:
    """Turn an error of Hydra or OmegaConf into one sentence with the fix. `name`: name of the primary config."""
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        return explain_quoting(error.override, name)
    word, fault = explain_refused_word(error, name)
    return f"{word} was removed: {REMOVED[word]}." if word in REMOVED else f"{word} {fault}".strip()
