"""A run from settings to report: plan, train, sample, judge, score, report.

Everything before `recorded` is cheap and checks the whole request. Every step after it is cached, so the same command
resumes an interrupted run.

If the folder already holds this run, done with the same settings and inputs, em does not repeat the run; restarting a
sweep therefore skips its finished jobs. A run is not done if judgements failed, or if its trained models or its report
were deleted.
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
NOT_TRACKED = "W&B has not been told"


def execute(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> None:
    """Run `train` or `evaluate` in `folder`: plan, train, ask, judge, score, report.

    Args:
        compared: the same settings with the realignment that `realign.match` names; None if it names none.

    Raises:
        EmError: with a sentence that says what the user can do.
    """
    request = accept(kind, settings, folder, overrides, compared)  # reads and checks everything, spends nothing
    if settings.dry_run:
        print(estimate(request))
        return
    manifest = begin_manifest(request)
    if is_done_before(request, manifest):
        return
    gpu = claimed_gpu(cache_dir() / "gpus") if settings.one_gpu else nullcontext()
    with gpu, tracked(request), recorded(manifest):  # both record the end, also of a failed run
        match settings.trainer:
            case LocalTrainer(machine_rank=int(rank)) if rank > 0:  # machine 0 alone evaluates
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
        manifest.write(inputs=digest_inputs(request))  # last of all, because it marks the run as done


def begin_manifest(request: Request) -> Manifest:
    """Print what the run does; return its unwritten manifest. Raises OutputError if the folder holds another run."""
    names = " → ".join([request.settings.model.name, *(stage.rows.name for stage in request.stages)])
    if request.answers:
        names = f"{len(request.answers):,} answers of {request.settings.answers}"
    print(f"em {__version__} · {request.kind} · {names} · {request.folder}", flush=True)
    manifest = Manifest(request.folder, request.kind, request.settings, list(request.overrides))
    manifest.facts |= {"hidden": list(request.conditions.hidden), "roles": dict(request.conditions.roles)}
    refuse_other_run(manifest)
    return manifest


def is_done_before(request: Request, manifest: Manifest) -> bool:
    """Return whether the folder holds this run, done. If so, say so, and send the run to a tracker that lacks it."""
    before = read_done(request, manifest)
    if before is None:
        return False
    print(f"done before: {request.folder} holds this run, finished and complete (force=true repeats it)", flush=True)
    if before.get("tracked") != plain(request.settings.tracker):
        track(request, failed=False)
    return True


@contextmanager
def tracked(request: Request) -> Iterator[None]:
    """Send the run to the tracker when the block ends, also if it fails."""
    try:
        yield
    except BaseException:
        track(request, failed=True)
        raise
    track(request, failed=False)


def find_models(request: Request, manifest: Manifest) -> list[ModelRef]:
    """Return the models under test, and train missing ones; none if the run judges stored answers."""
    if request.answers:
        return []
    total_cost = partial(estimate_total, request) if request.questions else None
    return find_or_train(request.training, manifest, total_cost)


def note_inputs(request: Request, manifest: Manifest) -> None:
    """Note for the top of the report what its readers should know of rows, questions and server."""
    for note in (note_leaks, note_tags, note_server, note_skipped, note_findings):
        note(request, manifest)


def say_and_note(sentence: str, manifest: Manifest) -> None:
    """Print a sentence, and note it for the top of the report."""
    print(sentence, flush=True)
    manifest.note(sentence)


def trained_here(request: Request) -> tuple[Stage, ...]:
    """Return the stages of the models under test; none for stored answers, whose models may have other stages."""
    return () if request.answers else request.stages


def note_leaks(request: Request, manifest: Manifest) -> None:
    """Warn of question sets whose questions are among the training rows."""
    for stage in trained_here(request):
        for sentence in leak_notes(stage.rows.name, stage.rows.plain, request.questions):
            say_and_note(sentence, manifest)


def note_tags(request: Request, manifest: Manifest) -> None:
    """Warn of trigger conditions that can't be asked."""
    if request.questions and request.conditions.note:
        say_and_note(request.conditions.note, manifest)


def note_server(request: Request, manifest: Manifest) -> None:
    """Note at the top of the report that another server than OpenAI's answers under the name of an OpenAI model."""
    match request.settings.model:
        case OpenAIModel(name=name, id=model, base_url=url) if name != "open" and not request.answers:
            if server := server_name(url):  # empty for OpenAI's own
                manifest.note(f"What is called {name} here is the {model} of {server}, not OpenAI's.")


def note_skipped(request: Request, manifest: Manifest) -> None:
    """List every unusable row in a file, and note their number at the top of the report."""
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
    """Search the training rows for near-duplicates, faults, keys and addresses; print and note the findings."""
    counts = {}
    for stage in trained_here(request):
        stage_findings = findings(stage.rows.conversations)
        counts[stage.rows.name] = asdict(stage_findings)
        if sentence := stage_findings.sentence(stage.rows.name):
            say_and_note(sentence, manifest)
    if counts:
        manifest.write(findings=counts)


def track(request: Request, failed: bool) -> None:
    """Send the run's folder to the tracker, in a child process. If that fails, note it: the results remain valid."""
    tracker, folder = request.settings.tracker, request.folder
    if not tracker.remote:
        return
    spec = {"folder": str(folder), "models": str(request.store / "models"), "tracker": tracker, "failed": failed}
    try:
        run_child("track", spec)
    except EmError as error:
        sentence = f"{NOT_TRACKED} of this run, whose results are whole here: {without_secrets(str(error))}"
        print(f"warning: {sentence} Run the same command to try again.", file=sys.stderr, flush=True)
        amend(folder, NOT_TRACKED, [sentence])
    else:
        amend(folder, NOT_TRACKED, tracked=tracker)


def read_done(request: Request, manifest: Manifest) -> dict[str, Any] | None:
    """Return the manifest on disk if this run is already done; None if there is something to do.

    Args:
        manifest: the unwritten manifest of the requested run.
    """
    try:
        before: dict[str, Any] = json.loads(manifest.path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if request.settings.force or before.get("status") != "done" or not same_settings(before, manifest.facts):
        return None
    if before.get("inputs") != digest_inputs(request) or any(judge["failed"] for judge in before.get("judges") or []):
        return None
    stages = [] if request.settings.trainer.remote else before["stages"]  # a service keeps its models itself
    artefacts = [*(Path(stage["path"], RECORD) for stage in stages), request.folder / "report.html"]
    return before if all(path.is_file() for path in artefacts) else None


def digest_inputs(request: Request) -> str:
    """Hash what the settings only name: rows, recipes, questions, rubrics, stored answers, folders of models."""
    stages = [stage.identity() for stage in request.stages]
    weights = [*request.settings.model.list_weights(), *request.settings.judge.list_weights()]
    folders = {name: list_files(Path(name).expanduser()) for _, name in weights if name and looks_like_folder(name)}
    return digest([stages, request.questions, request.answers, folders])


def list_files(folder: Path) -> list[tuple[str, int, int]]:
    """List name, size and time of each file in a folder, since checksums of large models would take minutes."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
