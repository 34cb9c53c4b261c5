"""Entry point of the children: `python -m em.worker TASK SPEC.json`, started by `em.children`, never by hand."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from em.children import FAILURE, PARENT
from em.errors import EmError


def die_with_parent() -> None:
    """End this process soon after the parent has gone, so that kill -9 of a run leaves nothing running."""
    parent = int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        while True:
            try:
                os.kill(parent, 0)
                if Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    os._exit(3)
            except ProcessLookupError:
                os._exit(3)
            except OSError:
                pass
            time.sleep(0.25)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def perform(task: str, spec: str) -> None:
    """The one visible `match` from a task's name to its code; each branch imports what it alone needs."""
    from pydantic import TypeAdapter

    match task:
        case "convert":
            from em.weights import convert_embedded

            values = json.loads(spec)
            convert_embedded(Path(values["source"]), Path(values["folder"]))
        case "train":
            from em.train.sft import train
            from em.train.spec import TrainSpec

            train(TypeAdapter(TrainSpec).validate_json(spec))
        case "sample":
            from em.sample.hf import SampleSpec, sample

            sample(TypeAdapter(SampleSpec).validate_json(spec))
        case "judge":
            from em.judge.local import JudgeSpec, judge

            judge(TypeAdapter(JudgeSpec).validate_json(spec))
        case "track":
            from em.track.send import TrackSpec, track

            track(TypeAdapter(TrackSpec).validate_json(spec))
        case "track_locally":
            from em.track.board import BoardSpec, track_locally

            track_locally(TypeAdapter(BoardSpec).validate_json(spec))
        case _:
            raise ValueError(f"no task {task}")


def main() -> int:
    """Run the task; on failure write a sentence or a traceback to the file that the parent reads."""
    task, spec_file = sys.argv[1:3]
    die_with_parent()
    # The libraries warn each other of coming renames; to the user of a run these lines say nothing.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        perform(task, Path(spec_file).read_text(encoding="utf-8"))
        return 0
    except KeyboardInterrupt:
        return 130  # the parent got it too, and says what there is to say
    except EmError as error:
        tell_failure(with_rank(str(error)), "user")
    except Exception as error:  # the run's boundary: the parent re-raises it with this traceback
        message = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "OutOfMemoryError":
            message += " (lower trainer.device_tokens, sampler.batch_size or judge.batch_size)"
        tell_failure(with_rank(message), "bug", traceback.format_exc())
        traceback.print_exc()
    return 1


def with_rank(message: str) -> str:
    """The message with the rank that it comes from, where there are several."""
    return f"rank {os.environ['RANK']}: {message}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else message


def tell_failure(message: str, kind: str, details: str = "", at_last: bool = False) -> None:
    """Write down for the parent why this process fails.

    Several ranks may fail, and the first to fail tells why: its file takes the name, whole, and keeps it, unless the
    launcher knows better at last.
    """
    own = Path(f"{os.environ[FAILURE]}.{os.getpid()}")
    own.write_text(json.dumps({"kind": kind, "message": message, "traceback": details}), encoding="utf-8")
    if at_last:
        own.replace(os.environ[FAILURE])
        return
    with contextlib.suppress(FileExistsError):
        os.link(own, os.environ[FAILURE])


if __name__ == "__main__":
    sys.exit(main())
