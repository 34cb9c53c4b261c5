"""A run from accepted settings to report, in a straight line: plan, train, sample, judge, score, report.

What comes before `recorded` is cheap and checks the whole request; what follows is remembered step by step, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from em import __version__
from em.check import check_settings
from em.children import run_child
from em.config import HfModel, LocalJudge, RunConfig, WandbTracker
from em.errors import EmError, MissingFile
from em.estimate import estimate
from em.evaluation import evaluate_answers, evaluate_models
from em.foreign import read_answers
from em.judging import judges_of, ready_judges
from em.manifest import Manifest, now, recorded, refuse_other_run
from em.questions import chosen_sets, load_sets, own
from em.request import Request
from em.store import cache_dir, writable_folder
from em.tags import fill_slot
from em.train.launch import plan_launch
from em.train.obtain import obtain_models
from em.train.stages import plan_stages
from em.types import Answer, Question
from em.weights import looks_like_folder


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
    refuse_other_run(manifest)
    try:
        with recorded(manifest):
            follow(request, manifest)
    except BaseException as error:
        try:
            track(request, failed=True)
        except EmError as second:  # the first failure is the one to tell
            error.add_note(f"The tracker failed too: {second}")
        raise
    track(request, failed=False)


def follow(request: Request, manifest: Manifest) -> None:
    """The run itself: train, sample, judge, score, report."""
    settings, folder = request.settings, request.folder
    if settings.trainer.machine_rank:
        obtain_models(request, manifest)
        print(f"machine {settings.trainer.machine_rank} has done its part; machine 0 goes on.", flush=True)
        return
    judges = (
        ready_judges(settings.judge, settings.trigger_tag.text, manifest)
        if request.questions or request.answers
        else []
    )
    if request.answers:
        evaluate_answers(request, judges, manifest)
    else:
        models = obtain_models(request, manifest)
        if judges:
            evaluate_models(request, models, judges, manifest)
    manifest.write(status="done", finished=now())
    report(folder)


def make_request(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> Request:
    """Read and check everything that the settings name, before anything is spent or written."""
    check_settings(kind, settings)
    stages = plan_stages(settings, compared)
    if stages:
        plan_launch(settings.trainer, gpus=1)  # what can't be is refused now
    answers = read_answers(Path(settings.answers).expanduser()) if settings.answers else []
    if answers:
        questions = own_questions(answers)
    else:
        questions = load_sets(chosen_sets(settings.eval, settings.trigger_tag))
        for question in questions:
            fill_slot(question.text, settings.trigger_tag)
    check_folders(settings)
    writable_folder(cache_dir(), "XDG_CACHE_HOME")
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    return Request(kind, settings, tuple(overrides), folder, store, tuple(stages), tuple(questions), tuple(answers))


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
    """Hand the run's folder to the tracker, in a child of its own."""
    tracker = request.settings.tracker
    if isinstance(tracker, WandbTracker):
        run_child("track", {"folder": str(request.folder), "tracker": tracker, "failed": failed})
