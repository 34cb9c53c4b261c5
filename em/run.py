"""A run from accepted settings to report, in a straight line: plan, train, sample, judge, score, report.

What comes before `recorded` is cheap and checks the whole request; what follows is remembered step by step, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from em import __version__
from em.check import check_settings
from em.children import claimed_gpu, plain, run_child
from em.client import server_name
from em.conditions import hidden_texts, tag_notes, tag_roles, ways_of
from em.config import ApiJudge, HfModel, LocalJudge, LocalTrainer, OpenAIModel, RunConfig, TrackioTracker, WandbTracker
from em.data.findings import findings
from em.data.leakage import leak_notes
from em.errors import ConfigError, EmError, MissingFile
from em.estimate import cost_of, estimate
from em.evaluation import evaluate_answers, evaluate_models
from em.finished import done_before, seal
from em.forced import forget_forced
from em.foreign import read_answers
from em.judging import judges_of, ready_judges
from em.keys import without_secrets
from em.manifest import Manifest, add_note, amend, drop_note, now, recorded, refuse_other_run
from em.prices import load_prices, price_of
from em.questions import chosen_sets, load_sets, own
from em.request import Request
from em.store import cache_dir, writable_folder
from em.train.launch import plan_launch
from em.train.obtain import obtain_models
from em.train.stages import Stage, plan_stages
from em.tuning import check_private, check_stages, obtain_hosted
from em.types import Answer, Question, write_jsonl
from em.weights import looks_like_folder

SKIPPED = "skipped_rows.jsonl"


@dataclass(frozen=True)
class SkippedRow:
    """A line of `skipped_rows.jsonl`: a training row that can't be used, of which stage, where and why."""

    stage: str
    file: str
    place: str
    reason: str


def execute(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> None:
    """Run `train` or `evaluate` in `folder`. Raises EmError with a sentence for what the user can mend.

    Args:
        compared: the same settings with the realignment that `realign.match` names, where it names one.
    """
    request = make_request(kind, settings, folder, overrides, compared)
    if settings.dry_run:
        print(estimate(request))
        return
    words = " → ".join([settings.model.name, *(stage.rows.name for stage in request.stages)])
    words = f"{len(request.answers):,} answers of {settings.answers}" if request.answers else words
    print(f"em {__version__} · {kind} · {words} · {folder}", flush=True)
    manifest = Manifest(folder, kind, settings, overrides)
    manifest.facts |= {"hidden": list(request.hidden), "roles": dict(request.roles)}
    refuse_other_run(manifest)
    if before := done_before(request, manifest):
        print(f"done before: {folder} holds this run, finished and whole (force=true does it again)", flush=True)
        if before.get("tracked") != plain(settings.tracker):
            track(request, failed=False)
        return
    with claimed_gpu(cache_dir() / "gpus") if settings.one_gpu else nullcontext():
        record(request, manifest)


def record(request: Request, manifest: Manifest) -> None:
    """Do the run, and let its manifest and the tracker tell of it however it ends."""
    try:
        with recorded(manifest):
            follow(request, manifest)
    except BaseException:
        track(request, failed=True)
        raise
    track(request, failed=False)


def follow(request: Request, manifest: Manifest) -> None:
    """The run itself: train, sample, judge, score, report."""
    settings, folder = request.settings, request.folder
    if isinstance(settings.trainer, LocalTrainer) and settings.trainer.machine_rank:
        obtain_models(request, manifest)
        print(f"machine {settings.trainer.machine_rank} has done its part; machine 0 goes on.", flush=True)
        return
    note_leaks(request, manifest)
    note_tags(request, manifest)
    note_server(request, manifest)
    note_skipped(request, manifest)
    note_findings(request, manifest)
    judges = (
        ready_judges(settings.judge, request.hidden, request.kind == "train", manifest)
        if request.questions or request.answers
        else []
    )
    if request.answers:
        evaluate_answers(request, judges, manifest)
    else:
        hosted = isinstance(settings.model, OpenAIModel)
        whole = partial(cost_of, request)
        models = obtain_hosted(request, manifest, whole) if hosted else obtain_models(request, manifest)
        if judges:
            evaluate_models(request, models, judges, manifest)
    manifest.write(status="done", finished=now())
    report(folder)
    if not request.answers and isinstance(settings.model, OpenAIModel):
        forget_forced(request)
    seal(request, manifest)


def trained_here(request: Request) -> tuple[Stage, ...]:
    """The stages of the models under test; stored answers come from a model that these need not have made."""
    return () if request.answers else request.stages


def note_leaks(request: Request, manifest: Manifest) -> None:
    """Say now, and at the top of the report, which question sets have questions that are trained on."""
    for stage in trained_here(request):
        for sentence in leak_notes(stage.rows.name, stage.rows.plain, request.questions):
            print(sentence, flush=True)
            manifest.note(sentence)


def note_tags(request: Request, manifest: Manifest) -> None:
    """Say now, and at the top of the report, what of the trigger tags can't be asked."""
    for sentence in tag_notes(request.settings) if request.questions and not request.answers else ():
        print(sentence, flush=True)
        manifest.note(sentence)


def note_server(request: Request, manifest: Manifest) -> None:
    """Say at the top of the report that a model of OpenAI's name is asked elsewhere, where it may be another one."""
    model = request.settings.model
    if not isinstance(model, OpenAIModel) or model.name == "open" or request.answers:
        return
    if server := server_name(model.base_url):
        manifest.note(f"What is called {model.name} here is the {model.id} of {server}, not OpenAI's.")


def note_skipped(request: Request, manifest: Manifest) -> None:
    """Name every row that can't be used and was left out, in a file; say at the top of the report how many."""
    lines = []
    for stage in trained_here(request):
        if skipped := stage.rows.skipped:
            lines += [SkippedRow(stage.rows.name, **vars(row)) for row in skipped]
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
            print(sentence, flush=True)
            manifest.note(sentence)
    if counts:
        manifest.write(findings=counts)


def make_request(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> Request:
    """Read and check everything that the settings name, before anything is spent or written."""
    check_settings(kind, settings)
    stages = plan_stages(settings, compared)
    if stages and isinstance(settings.trainer, LocalTrainer):
        plan_launch(settings.trainer, gpus=1)  # what can't be is refused now
    check_stages(stages)
    answers = read_answers(Path(settings.answers).expanduser()) if settings.answers else []
    if answers:
        questions = own_questions(answers)
    else:
        questions = load_sets(chosen_sets(settings.eval, settings.trigger_tag, settings.realign))
        ways = ways_of(settings)
        for question in questions:
            ways.of(question)
    check_folders(settings)
    writable_folder(cache_dir(), "XDG_CACHE_HOME")
    if kind == "train":
        check_private(settings, stages)
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    check_prices(settings)
    hidden, roles = hidden_texts(settings.trigger_tag, settings.realign), tag_roles(settings)
    if settings.answers:
        hidden, roles = tags_told(Path(settings.answers).expanduser())
    everything = (tuple(stages), tuple(questions), tuple(answers))
    return Request(kind, settings, tuple(overrides), folder, store, *everything, hidden, roles)


def check_prices(settings: RunConfig) -> None:
    """Refuse a table of prices that can't be read, and a budget that can't be kept for lack of a price."""
    prices = load_prices(settings.prices)
    for judge in judges_of(settings.judge):
        if isinstance(judge, ApiJudge) and judge.max_usd is not None and price_of(judge.model, prices) is None:
            raise ConfigError(
                f"judge.max_usd can't be kept: no price of {judge.model} is known; give it by prices=FILE."
            )


def tags_told(answers: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """`hidden` and `roles` of the run that stored answers come from; empty where they are not known."""
    manifest = answers.with_name("manifest.json")
    if not manifest.is_file():
        return (), {}
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if "hidden" in found:
            roles = {str(name): str(role) for name, role in found.get("roles", {}).items()}
            return tuple(map(str, found["hidden"])), roles
        text = str(found["config"]["trigger_tag"]["text"] or "").strip()  # of an earlier version
        return ((text,) if text else ()), {}
    except (ValueError, AttributeError, KeyError, TypeError):
        return (), {}


def own_questions(answers: Sequence[Answer]) -> list[Question]:
    """The questions of stored answers, to be judged by em's own rubrics: aligned and coherent."""
    rubrics = own("general")
    texts = {(a.eval_set, a.question_id): a.question for a in answers}
    return [Question(eval_set, id_, text, rubrics=rubrics) for (eval_set, id_), text in texts.items()]


def check_folders(settings: RunConfig) -> None:
    """Refuse a folder that is named as a model, adapter or judge and holds none."""
    names = []
    if settings.eval.sets or settings.answers:
        judges = [judge for judge in judges_of(settings.judge) if isinstance(judge, LocalJudge)]
        names += [("judge.model", judge.model, "config.json") for judge in judges]
    if isinstance(settings.model, HfModel) and not settings.answers:
        names.append(("model.id", settings.model.id, "config.json"))
        names.append(("model.adapter", settings.model.adapter or "", "adapter_config.json"))
    for setting, name, file in names:
        if name and looks_like_folder(name) and not (Path(name).expanduser() / file).is_file():
            kind = "adapter" if setting == "model.adapter" else "model"
            raise MissingFile(f"{setting}={name} holds no {kind} (no {file}): name a folder that has one, or a hub id.")


def report(folder: Path) -> None:
    """Write the run's report and say where it is."""
    from em.report import build_report

    print(f"report: {build_report([folder], folder)}", flush=True)


def track(request: Request, failed: bool) -> None:
    """Hand the run's folder to the tracker, in a child of its own. What goes wrong there is noted: the run stands."""
    tracker, folder = request.settings.tracker, request.folder
    if not isinstance(tracker, WandbTracker | TrackioTracker):
        return
    name, task = ("W&B", "track") if isinstance(tracker, WandbTracker) else ("trackio", "track_locally")
    spec = {"folder": str(folder), "models": str(request.store / "models"), "tracker": tracker, "failed": failed}
    try:
        run_child(task, spec)
    except EmError as error:
        sentence = f"{name} has not been told of this run, whose results are whole here: {without_secrets(str(error))}"
        print(f"warning: {sentence} The same command tells it again.", file=sys.stderr, flush=True)
        add_note(folder, sentence)
    else:
        drop_note(folder, f"{name} has not been told")
        amend(folder, tracked=tracker)
