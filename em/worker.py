"""Entry point of child processes: `em.runtime.processes` starts them as `python -m em.worker TASK SPEC.json`."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

from em.errors import EmError, OutOfMemory
from em.runtime.processes import MEMORY, exit_with_parent, is_out_of_memory, report_failure


def run_task(task: str, spec: str) -> None:
    """Run the task with the arguments in `spec` (JSON). Each branch imports only what its task needs."""
    from pydantic import TypeAdapter

    match task:
        case "convert":
            from em.models.embedded import convert_embedded

            values = json.loads(spec)
            convert_embedded(Path(values["source"]), Path(values["folder"]))
        case "train":
            from em.train.local.sft import train_stage
            from em.train.local.spec import TrainSpec

            train_stage(TypeAdapter(TrainSpec).validate_json(spec))
        case "estimate":
            from em.train.local.dry_run import EstimateSpec, write_estimates

            write_estimates(TypeAdapter(EstimateSpec).validate_json(spec))
        case "template":
            from em.models.default_prompt import TemplateSpec, write_default_prompt

            write_default_prompt(TypeAdapter(TemplateSpec).validate_json(spec))
        case "sample":
            from em.sample.local import SampleSpec, sample

            sample(TypeAdapter(SampleSpec).validate_json(spec))
        case "parity":
            from em.models.scores import ParitySpec, score_conversations

            score_conversations(TypeAdapter(ParitySpec).validate_json(spec))
        case "judge":
            from em.judge.local import JudgeSpec, judge

            judge(TypeAdapter(JudgeSpec).validate_json(spec))
        case "score":
            from em.judge.distilled.judge import ScoreSpec, score

            score(TypeAdapter(ScoreSpec).validate_json(spec))
        case "track":
            from em.track.wandb import TrackSpec, log_run

            log_run(TypeAdapter(TrackSpec).validate_json(spec))
        case _:
            raise ValueError(f"no task {task}")


def main() -> int:
    """Run the task; on failure write a sentence or a traceback to the file that the parent process reads."""
    task, spec_file = sys.argv[1:3]
    exit_with_parent()
    # FutureWarnings tell library authors of renames to come; the user of a run can do nothing about them.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        run_task(task, Path(spec_file).read_text(encoding="utf-8"))
        return 0
    except KeyboardInterrupt:
        return 130  # the parent process gets Ctrl-C too and prints the message
    except OutOfMemory as error:
        report_failure(add_rank(str(error)), "memory", str(error.device_tokens))
    except EmError as error:
        report_failure(add_rank(str(error)), "user")
    except Exception as error:  # the parent process raises ChildFailed with this traceback
        message = add_memory_hint(f"{type(error).__name__}: {error}", task)
        report_failure(add_rank(message), "bug", traceback.format_exc())
        traceback.print_exc()
    return 1


def add_memory_hint(message: str, task: str) -> str:
    """Add the setting that saves memory, if the error is one of the ways in which libraries say that memory is full."""
    full = task in MEMORY and is_out_of_memory(message)
    return f"{message} (out of memory: lower {MEMORY[task]})" if full else message


def add_rank(message: str) -> str:
    """Put this process's rank before the message, if there are several ranks."""
    return f"rank {os.environ['RANK']}: {message}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else message


if __name__ == "__main__":
    sys.exit(main())
