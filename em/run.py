"""A run from accepted settings to report, in a straight line: plan, train, sample, judge, score, report.

What comes before `recorded` is cheap and checks the whole request; what follows is remembered step by step, so the
same command goes on where it was stopped.

A folder may hold this very run already: done, with the same settings and inputs. It is not done again then, so the jobs
of a sweep that is started once more cost a look each. A run is not done if judgements failed, or if its trained models
or its report were removed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from em import __version__
from em.config import LocalTrainer, OpenAIModel, RunConfig
from em.config.addresses import server_name
from em.data.findings import findings
from em.data.leakage import leak_notes
from em.errors import EmError
from em.evaluate import ask_and_judge, write_results
from em.judge.run import Judge, ready_judges
from em.models.weights import looks_like_folder
from em.plan import accept, estimate, estimate_total
from em.report import build_report
from em.request import Request, Stage
from em.runtime.files import RECORD, cache_dir
from em.runtime.gpus import claimed_gpu
from em.runtime.keys import without_secrets
from em.runtime.manifest import Manifest, amend, now, recorded, refuse_other_run, same_settings
from em.runtime.processes import run_child
from em.runtime.records import digest, plain, write_jsonl
from em.train.find_or_train import find_or_train
from em.train.remote.find_or_train import forget_forced
from em.types import ModelRef

SKIPPED = "skipped_rows.jsonl"
UNTOLD = "W&B has not been told"


def execute(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> None:
    """Run `train` or `evaluate` in `folder`: plan, train, ask, judge, score, report.

    Args:
        compared: the same settings with the realignment that `realign.match` names, where it names one.

    Raises:
        EmError: with a sentence for what the user can mend.
    """
    request = accept(kind, settings, folder, overrides, compared)  # reads and checks everything, spends nothing
    if settings.dry_run:
        print(estimate(request))
        return
    manifest = begin_manifest(request)
    if is_done_before(request, manifest):
        return
    gpu = claimed_gpu(cache_dir() / "gpus") if settings.one_gpu else nullcontext()
    with gpu, tracked(request), recorded(manifest):  # however it ends, the manifest and the tracker say so
        match settings.trainer:
            case LocalTrainer(machine_rank=int(rank)) if rank > 0:  # it helps machine 0, which evaluates
                find_or_train(request.training, manifest)
                print(f"machine {rank} has done its part; machine 0 goes on.", flush=True)
                return
        note_inputs(request, manifest)
        judges = list[Judge]()
        if request.questions:
            judges = ready_judges(request.judges, request.conditions.hidden, kind == "train", manifest)
        models = find_models(request, manifest)
        if judges:
            results = ask_and_judge(request, models, judges, manifest)
            write_results(request, results, manifest)
        manifest.write(status="done", finished=now())
        print(f"report: {build_report([folder], folder)}", flush=True)
        forget_forced(request.training)
        manifest.write(inputs=digest_inputs(request))  # last of all: with it the run is done


def begin_manifest(request: Request) -> Manifest:
    """Say what is run, and return its manifest, not written yet. Raises OutputError for the folder of another run."""
    names = " → ".join([request.settings.model.name, *(stage.rows.name for stage in request.stages)])
    if request.answers:
        names = f"{len(request.answers):,} answers of {request.settings.answers}"
    print(f"em {__version__} · {request.kind} · {names} · {request.folder}", flush=True)
    manifest = Manifest(request.folder, request.kind, request.settings, list(request.overrides))
    manifest.facts |= {"hidden": list(request.conditions.hidden), "roles": dict(request.conditions.roles)}
    refuse_other_run(manifest)
    return manifest


def is_done_before(request: Request, manifest: Manifest) -> bool:
    """Return whether the folder holds this very run, done; say so, and tell a tracker that has not been told yet."""
    before = read_done(request, manifest)
    if before is None:
        return False
    print(f"done before: {request.folder} holds this run, finished and whole (force=true does it again)", flush=True)
    if before.get("tracked") != plain(request.settings.tracker):
        track(request, failed=False)
    return True


@contextmanager
def tracked(request: Request) -> Iterator[None]:
    """Let the tracker tell of a run, however it ends."""
    try:
        yield
    except BaseException:
        track(request, failed=True)
        raise
    track(request, failed=False)


def find_models(request: Request, manifest: Manifest) -> list[ModelRef]:
    """Return the models under test, trained now where they are not there; none where stored answers are judged."""
    if request.answers:
        return []
    total_cost = partial(estimate_total, request) if request.questions else None
    return find_or_train(request.training, manifest, total_cost)


def note_inputs(request: Request, manifest: Manifest) -> None:
    """Say now, and at the top of the report, what should be known of rows, questions and server."""
    for note in (note_leaks, note_tags, note_server, note_skipped, note_findings):
        note(request, manifest)


def say_and_note(sentence: str, manifest: Manifest) -> None:
    """Say a sentence now, and at the top of the report."""
    print(sentence, flush=True)
    manifest.note(sentence)


def trained_here(request: Request) -> tuple[Stage, ...]:
    """The stages of the models under test; stored answers come from a model that these need not have made."""
    return () if request.answers else request.stages


def note_leaks(request: Request, manifest: Manifest) -> None:
    """Say now, and at the top of the report, which question sets have questions that are trained on."""
    for stage in trained_here(request):
        for sentence in leak_notes(stage.rows.name, stage.rows.plain, request.questions):
            say_and_note(sentence, manifest)


def note_tags(request: Request, manifest: Manifest) -> None:
    """Say now, and at the top of the report, what of the trigger tags can't be asked."""
    if request.questions and request.conditions.note:
        say_and_note(request.conditions.note, manifest)


def note_server(request: Request, manifest: Manifest) -> None:
    """Say at the top of the report that a model of OpenAI's name is asked elsewhere, where it may be another one."""
    match request.settings.model:
        case OpenAIModel(name=name, id=model, base_url=url) if name != "open" and not request.answers:
            if server := server_name(url):
                manifest.note(f"What is called {name} here is the {model} of {server}, not OpenAI's.")


def note_skipped(request: Request, manifest: Manifest) -> None:
    """Name every row that can't be used and was left out, in a file; say at the top of the report how many."""
    lines = []
    for stage in trained_here(request):
        if skipped := stage.rows.skipped:
            lines += [{"stage": stage.rows.name, **vars(row)} for row in skipped]
            manifest.note(
                f"{len(skipped):,} rows of {stage.rows.name} can't be used and were left out, the first of them: "
                f"{skipped[0]}; all of them are in {SKIPPED}."
            )
    if lines:
        write_jsonl(request.folder / SKIPPED, lines)


def note_findings(request: Request, manifest: Manifest) -> None:
    """Look through every row that is trained on; say what was found now, and at the top of the report."""
    counts = {}
    for stage in trained_here(request):
        found = findings(stage.rows.conversations)
        counts[stage.rows.name] = asdict(found)
        if sentence := found.sentence(stage.rows.name):
            say_and_note(sentence, manifest)
    if counts:
        manifest.write(findings=counts)


def track(request: Request, failed: bool) -> None:
    """Hand the run's folder to the tracker, in a child of its own. What goes wrong there is noted: the run stands."""
    tracker, folder = request.settings.tracker, request.folder
    if not tracker.remote:
        return
    spec = {"folder": str(folder), "models": str(request.store / "models"), "tracker": tracker, "failed": failed}
    try:
        run_child("track", spec)
    except EmError as error:
        sentence = f"{UNTOLD} of this run, whose results are whole here: {without_secrets(str(error))}"
        print(f"warning: {sentence} The same command tells it again.", file=sys.stderr, flush=True)
        amend(folder, UNTOLD, [sentence])
    else:
        amend(folder, UNTOLD, tracked=tracker)


def read_done(request: Request, manifest: Manifest) -> dict[str, Any] | None:
    """Return the manifest of a folder where this very run is done already; None where there is something to do.

    Args:
        manifest: that of the run that is asked for, not written yet.
    """
    try:
        before: dict[str, Any] = json.loads(manifest.path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    trained_here = not request.settings.trainer.remote
    done = (
        not request.settings.force
        and before.get("status") == "done"
        and same_settings(before, manifest.facts)
        and before.get("inputs") == digest_inputs(request)
        and not any(judge["failed"] for judge in before.get("judges") or [])
        and not (trained_here and any(not Path(stage["path"], RECORD).is_file() for stage in before["stages"]))
        and (request.folder / "report.html").is_file()
    )
    return before if done else None


def digest_inputs(request: Request) -> str:
    """Digest all that the settings only name: rows, recipes, questions, rubrics, stored answers, models in folders."""
    stages = [stage.identity() for stage in request.stages]
    weights = [*request.settings.model.list_weights(), *request.settings.judge.list_weights()]
    folders = {name: list_files(Path(name).expanduser()) for _, name in weights if name and looks_like_folder(name)}
    return digest([stages, request.questions, request.answers, folders])


def list_files(folder: Path) -> list[tuple[str, int, int]]:
    """List names, sizes and times of the files in a folder: checksums of large models would take minutes."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
