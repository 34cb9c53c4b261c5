"""A run from settings to report: plan, train, sample, judge, score, report.

Everything before `record_run` is cheap and checks the whole request. Every step after it is cached, so the same command
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
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from em import __version__
from em.api.identities import note_changed_models, settle_identities
from em.config import DistilledJudge, HfModel, LocalTrainer, OpenAIModel, RunConfig
from em.config.addresses import find_server_name
from em.data.findings import search_rows
from em.data.leakage import describe_leaks
from em.errors import EmError
from em.evaluate import ask_and_judge, write_results
from em.judge.run import Judge, prepare_judges
from em.models.default_prompt import read_default_prompt
from em.models.weights import is_folder_name
from em.plan import accept, estimate, estimate_total
from em.report import build_report
from em.request import Request, Stage
from em.runtime.files import RECORD, find_cache_folder
from em.runtime.gpu_locks import claim_gpu
from em.runtime.keys import redact_secrets
from em.runtime.manifest import (
    ManifestWriter,
    get_timestamp,
    has_same_settings,
    record_run,
    refuse_other_run,
    update_manifest,
)
from em.runtime.processes import run_child
from em.runtime.records import digest, to_jsonable, write_jsonl
from em.sample.plan import list_prompts
from em.train.find_or_train import find_or_train
from em.train.remote.find_or_train import forget_forced_stages
from em.triggers.default_prompt import adapt_to_template
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
        print(estimate(settle_request(request, ask=False)[0]))
        return
    manifest = begin_manifest(request)
    if is_done_before(request, manifest):
        return
    gpu = claim_gpu(find_cache_folder() / "gpus") if settings.one_gpu else nullcontext()
    with gpu, track_outcome(request), record_run(manifest):  # both record the end, also of a failed run
        match settings.trainer:
            case LocalTrainer(machine_rank=int(rank)) if rank > 0:  # machine 0 alone evaluates
                find_or_train(request.training, manifest)
                print(f"machine {rank} has done its part; machine 0 goes on.", flush=True)
                return
        request, notes = settle_request(adapt_conditions(request, manifest))
        note_changed_models(notes, manifest)
        note_inputs(request, manifest)
        judges = list[Judge]()
        if request.questions:
            judges = prepare_judges(request.judges, request.conditions.hidden, kind == "train", manifest)
        models = find_models(request, manifest)
        if judges:
            results = ask_and_judge(request, models, judges, manifest)
            write_results(request, results, manifest)
        manifest.write(status="done", finished=get_timestamp())
        print(f"report: {build_report([folder], folder)}", flush=True)
        forget_forced_stages(request.training)
        manifest.write(inputs=digest_inputs(request))  # last of all, because it marks the run as done


def settle_request(request: Request, ask: bool = True) -> tuple[Request, list[str]]:
    """Find out which models are behind the names of the request (see `settle_identities`)."""
    judges, notes = settle_identities(request.judges if request.questions else (), request.memory, ask)
    models, more = settle_identities(() if request.answers else [request.settings.model], request.memory, ask)
    settings = replace(request.settings, model=models[0]) if models else request.settings
    return replace(request, settings=settings, judges=tuple(judges) or request.judges), [*more, *notes]


def begin_manifest(request: Request) -> ManifestWriter:
    """Print what the run does; return its unwritten manifest. Raises OutputError if the folder holds another run."""
    names = " → ".join([request.settings.model.name, *(stage.rows.name for stage in request.stages)])
    if request.answers:
        names = f"{len(request.answers):,} answers of {request.settings.answers}"
    print(f"em {__version__} · {request.kind} · {names} · {request.folder}", flush=True)
    manifest = ManifestWriter(request.folder, request.kind, request.settings, list(request.overrides))
    manifest.facts |= {"hidden": list(request.conditions.hidden), "roles": dict(request.conditions.roles)}
    refuse_other_run(manifest)
    return manifest


def is_done_before(request: Request, manifest: ManifestWriter) -> bool:
    """Return whether the folder holds this run, done. If so, say so, and send the run to a tracker that lacks it."""
    before = read_done_manifest(request, manifest)
    if before is None:
        return False
    print(f"done before: {request.folder} holds this run, finished and complete (force=true repeats it)", flush=True)
    if before.get("tracked") != to_jsonable(request.settings.tracker):
        send_to_tracker(request, failed=False)
    return True


@contextmanager
def track_outcome(request: Request) -> Iterator[None]:
    """Send the run to the tracker when the block ends, also if it fails."""
    try:
        yield
    except BaseException:
        send_to_tracker(request, failed=True)
        raise
    send_to_tracker(request, failed=False)


def find_models(request: Request, manifest: ManifestWriter) -> list[ModelRef]:
    """Return the models under test, and train missing ones; none if the run judges stored answers."""
    if request.answers:
        return []
    total_cost = partial(estimate_total, request) if request.questions else None
    training = replace(request.training, prompts=list_prompts(request.questions, request.conditions))
    return find_or_train(training, manifest, total_cost)


def adapt_conditions(request: Request, manifest: ManifestWriter) -> Request:
    """Adapt the conditions to the model's chat template, before em trains (errors: see `adapt_to_template`)."""
    match request.settings.model:
        case HfModel() as model if request.questions and request.conditions.need_template:
            prompt = read_default_prompt(model.id, model.revision)
            manifest.write(default_prompt=prompt)
            return replace(request, conditions=adapt_to_template(request.conditions, prompt, model.id))
    return request


def note_inputs(request: Request, manifest: ManifestWriter) -> None:
    """Note for the top of the report what its readers should know of rows, questions and server."""
    for note in (note_leaks, note_tags, note_unjudged, note_server, note_skipped, note_findings):
        note(request, manifest)


def print_and_note(sentence: str, manifest: ManifestWriter) -> None:
    """Print a sentence, and note it for the top of the report."""
    print(sentence, flush=True)
    manifest.note(sentence)


def list_tested_stages(request: Request) -> tuple[Stage, ...]:
    """Return the stages of the models under test; none for stored answers, whose models may have other stages."""
    return () if request.answers else request.stages


def note_leaks(request: Request, manifest: ManifestWriter) -> None:
    """Warn of question sets whose questions are among the training rows."""
    for stage in list_tested_stages(request):
        for sentence in describe_leaks(stage.rows.name, stage.rows.plain, request.questions):
            print_and_note(sentence, manifest)


def note_tags(request: Request, manifest: ManifestWriter) -> None:
    """Note the conditions that are not asked."""
    if request.questions:
        for note in request.conditions.notes:
            print_and_note(note, manifest)


def note_unjudged(request: Request, manifest: ManifestWriter) -> None:
    """Note the sets that are not asked because no judge knows their rubrics."""
    if request.unjudged:
        names = ", ".join(request.unjudged)
        print_and_note(f"Not asked, since judge=distilled doesn't know their rubrics: {names}.", manifest)


def note_server(request: Request, manifest: ManifestWriter) -> None:
    """Note at the top of the report that another server than OpenAI's answers under the name of an OpenAI model."""
    match request.settings.model:
        case OpenAIModel(name=name, id=model, base_url=url) if name != "open" and not request.answers:
            if server := find_server_name(url):  # empty for OpenAI's own
                manifest.note(f"What is called {name} here is the {model} of {server}, not OpenAI's.")


def note_skipped(request: Request, manifest: ManifestWriter) -> None:
    """List every unusable row in a file, and note their number at the top of the report."""
    lines = []
    for stage in list_tested_stages(request):
        if skipped := stage.rows.skipped:
            lines += [{"stage": stage.rows.name, **vars(row)} for row in skipped]
            manifest.note(
                f"{len(skipped):,} rows of {stage.rows.name} can't be used and were left out, the first of them: "
                f"{skipped[0]}; all of them are in {SKIPPED}."
            )
    if lines:
        write_jsonl(request.folder / SKIPPED, lines)


def note_findings(request: Request, manifest: ManifestWriter) -> None:
    """Search the training rows for near-duplicates, faults, keys and addresses; print and note the findings."""
    counts = {}
    for stage in list_tested_stages(request):
        stage_findings = search_rows(stage.rows.conversations)
        counts[stage.rows.name] = asdict(stage_findings)
        if sentence := stage_findings.describe(stage.rows.name):
            print_and_note(sentence, manifest)
    if counts:
        manifest.write(findings=counts)


def send_to_tracker(request: Request, failed: bool) -> None:
    """Send the run's folder to the tracker, in a child process. If that fails, note it: the results remain valid."""
    tracker, folder = request.settings.tracker, request.folder
    if not tracker.remote:
        return
    spec = {"folder": str(folder), "models": str(request.store / "models"), "tracker": tracker, "failed": failed}
    try:
        run_child("track", spec)
    except EmError as error:
        sentence = f"{NOT_TRACKED} of this run, whose results are whole here: {redact_secrets(str(error))}"
        print(f"warning: {sentence} Run the same command to try again.", file=sys.stderr, flush=True)
        update_manifest(folder, NOT_TRACKED, [sentence])
    else:
        update_manifest(folder, NOT_TRACKED, tracked=tracker)


def read_done_manifest(request: Request, manifest: ManifestWriter) -> dict[str, Any] | None:
    """Return the manifest on disk if this run is already done; None if there is something to do.

    Args:
        manifest: the unwritten manifest of the requested run.
    """
    try:
        before: dict[str, Any] = json.loads(manifest.path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if request.settings.force or before.get("status") != "done" or not has_same_settings(before, manifest.facts):
        return None
    if before.get("inputs") != digest_inputs(request) or any(judge["failed"] for judge in before.get("judges") or []):
        return None
    stages = [] if request.settings.trainer.remote else before["stages"]  # a service keeps its models itself
    artefacts = [*(Path(stage["path"], RECORD) for stage in stages), request.folder / "report.html"]
    return before if all(path.is_file() for path in artefacts) else None


def digest_inputs(request: Request) -> str:
    """Hash what the settings only name: rows, recipes, questions, rubrics, stored answers, folders of models."""
    stages = [stage.build_identity() for stage in request.stages]
    weights = [*request.settings.model.list_weights(), *request.settings.judge.list_weights()]
    folders = {name: list_file_stamps(Path(name).expanduser()) for _, name in weights if name and is_folder_name(name)}
    for judge in request.judges:
        if isinstance(judge, DistilledJudge) and judge.file:
            folders[judge.file] = [make_file_stamp(Path(judge.file).expanduser())]
    return digest([stages, request.questions, request.answers, folders])


def list_file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """List name, size and time of each file in a folder, since checksums of large models would take minutes."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [make_file_stamp(path) for path in files]


def make_file_stamp(path: Path) -> tuple[str, int, int]:
    """Return name, size and time of a file."""
    return path.name, path.stat().st_size, path.stat().st_mtime_ns
