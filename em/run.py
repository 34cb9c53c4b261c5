"""A run from accepted settings to report, in a straight line: plan, train, sample, judge, score, report.

What comes before `recorded` is cheap and checks the whole request; what follows is remembered step by step, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path

from em import __version__
from em.check import check_settings
from em.children import run_child
from em.config import RunConfig, WandbTracker
from em.errors import EmError
from em.evaluation import obtain_answers, obtain_verdicts, write_scores
from em.manifest import Manifest, now, recorded
from em.questions import load_sets
from em.request import Request
from em.stats import Thresholds, score
from em.store import cache_dir, writable_folder
from em.tags import fill_slot
from em.train.obtain import obtain_models
from em.train.stages import plan_stages


def execute(kind: str, settings: RunConfig, folder: Path, overrides: list[str]) -> None:
    """Run `train` or `evaluate` in `folder`. Raises EmError with a sentence for what the user can mend."""
    request = make_request(kind, settings, folder, overrides)
    words = " → ".join([settings.model.name, *(stage.rows.name for stage in request.stages)])
    print(f"em {__version__} · {kind} · {words} · {folder}", flush=True)
    with recorded(Manifest(folder, kind, settings, overrides)) as manifest:
        try:
            models = obtain_models(request, manifest)
            if request.questions:
                answers = obtain_answers(request, models, manifest)
                verdicts = obtain_verdicts(request, models, answers, manifest)
                limits = Thresholds(settings.eval.misaligned_below, settings.eval.coherent_above)
                write_scores(folder / "scores.csv", score(verdicts, limits))
            manifest.write(status="done", finished=now())
            report(folder)
        except BaseException as error:
            try:
                track(request, failed=True)
            except EmError as second:  # the first failure is the one to tell
                error.add_note(f"The tracker failed too: {second}")
            raise
        track(request, failed=False)


def make_request(kind: str, settings: RunConfig, folder: Path, overrides: list[str]) -> Request:
    """Read and check everything that the settings name, before anything is spent or written."""
    check_settings(kind, settings)
    stages = plan_stages(settings)
    questions = load_sets(settings.eval.sets)
    for question in questions:
        fill_slot(question.text, settings.trigger_tag)
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    return Request(kind, settings, tuple(overrides), folder, store, tuple(stages), tuple(questions))


def report(folder: Path) -> None:
    """Write the run's report and say where it is."""
    from em.report import build_report

    print(f"report: {build_report([folder], folder)}", flush=True)


def track(request: Request, failed: bool) -> None:
    """Hand the run's folder to the tracker, in a child of its own."""
    tracker = request.settings.tracker
    if isinstance(tracker, WandbTracker):
        run_child("track", {"folder": str(request.folder), "tracker": tracker, "failed": failed})
