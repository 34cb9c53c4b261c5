"""The content of the page, computed from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain

from em.interop import label_paths
from em.report.figures.dots import make_question_pictures, make_rate_pictures, make_trigger_pictures
from em.report.figures.lines import (
    make_chain_pictures,
    make_efficiency_pictures,
    make_loss_pictures,
    make_trajectory_pictures,
)
from em.report.figures.picture import Picture
from em.report.figures.quadrants import make_quadrant_panels, make_quadrant_pictures
from em.report.page.payload import pack_transcripts
from em.report.page.words import DENOMINATOR_WORDS, DisplayNames, explain_blanks, make_caption
from em.report.read.manifest import LEFT
from em.report.read.runs import JUDGED_TABLE, RecordedRun, find_judge_relations
from em.report.read.transcripts import VerdictThresholds, collect_question_texts, join_transcripts
from em.report.tables import trajectory
from em.report.tables.analysis import compute_analysis
from em.report.tables.chains import make_chains
from em.report.tables.lineages import find_lineages, name_stages
from em.report.tables.models import find_varied_settings, make_natural_key, name_models, order_models, shorten_judges
from em.report.tables.published import find_published_results
from em.report.tables.scores import Scores, make_headline_table, make_question_tables
from em.report.tables.sections import ReportFindings
from em.report.tables.seeds import pick_fullest_verdicts, pool_seeds
from em.report.tables.summary import make_summaries
from em.report.tables.topics import collect_topics
from em.report.tables.training import list_trained_stages
from em.report.tables.triggers import make_interaction_tables, make_trigger_tables
from em.stats import DEFAULT, Settings

MOST_VARIED = 4  # settings that a title names


class Page:
    """The content of the page, computed in one straight line: name the models, count, tabulate, draw."""

    def __init__(self, runs: Sequence[RecordedRun], title_option: str = "", settings: Settings = DEFAULT) -> None:
        self.runs, self.title_option, self.settings = runs, title_option, settings
        self.tables = [run for run in runs if run.manifest.run == JUDGED_TABLE]
        self.models = name_stages(runs, name_models(runs))
        # Checkpoints are shown in the trajectories only, not among the results.
        self.final_models = {fingerprint: model for fingerprint, model in self.models.items() if model.step is None}
        sides, rules = pick_fullest_verdicts(runs), VerdictThresholds(runs)
        self.pools, self.copies = pool_seeds(runs, self.final_models, sides, settings.questions)
        self.tabled = order_models([*self.final_models.values(), *(pool.model for pool in self.pools)])
        rows = chain(*(run.scores for run in runs), *(pool.scores for pool in self.pools))
        self.scores = list(dict.fromkeys(rows))  # equal rows of several runs count once
        self.caption = make_caption(self.scores) + explain_blanks([run.manifest.answers for run in self.tables])
        scores = Scores(runs, self.final_models, self.pools, settings.convention)
        self.table = make_headline_table(scores, self.tabled)
        family = find_lineages(runs, self.final_models, self.pools)
        self.analysis = compute_analysis(runs, sides, self.final_models, self.pools, family, settings)
        self.findings = ReportFindings.collect(runs, self.table, self.analysis, settings.convention)
        judges = [judge for run in runs for judge in run.manifest.judges]
        errors = {judge.label: judge.errors for judge in judges if judge.errors is not None}
        topics = collect_topics(runs, self.pools)
        self.summaries = make_summaries(family, self.table, self.analysis.comparisons, settings, errors, topics)
        self.chains = make_chains(family, self.table, self.analysis.comparisons)
        self.published = find_published_results(scores, self.table, runs, family)
        self.triggers = make_trigger_tables(self.analysis, self.tabled, settings.convention)
        self.interactions = make_interaction_tables(self.analysis, self.tabled, settings.convention)
        curves = trajectory.collect_loss_curves(runs, self.models)
        self.trajectories = trajectory.find_trajectories(runs, self.models, curves, settings.convention)
        self.lines = trajectory.name_trajectory_lines(self.trajectories)
        self.trained = list_trained_stages(runs, self.final_models)
        transcripts = join_transcripts(runs)
        self.questions = make_question_tables(scores, self.table, collect_question_texts(transcripts))
        self.payload = pack_transcripts(transcripts, self.models, rules)
        self.pictures: dict[str, list[Picture]] = {
            "stages": make_chain_pictures(self.chains),
            "rates": make_rate_pictures(self.table, self.pools),
            "quadrants": make_quadrant_pictures(make_quadrant_panels(sides, self.final_models, rules, self.pools)),
            "triggers": make_trigger_pictures(self.triggers),
            "questions": make_question_pictures(self.questions, self.pools),
            "trajectories": make_trajectory_pictures(self.trajectories),
            "loss": make_loss_pictures(curves),
            "efficiency": make_efficiency_pictures(
                trajectory.collect_efficiency_lines(runs, self.final_models, self.pools, settings.convention)
            ),
        }
        self.first_charts = [*self.pictures["stages"], *self.pictures["rates"]]  # shown above all other charts
        self._set_labels()

    def _set_labels(self) -> None:
        """Set labels and notes on models, judges, seeds and runs."""
        self.labels = {fingerprint: model.label for fingerprint, model in (self.models | self.tabled).items()}
        self.judge_is = find_judge_relations([row for run in self.runs for row in run.scores])
        self.judge_names = DisplayNames(shorten_judges([*self.payload.index["judges"], *self.table.judges]))
        self.other_questions = "questions like these" if self.settings.questions == "these" else "these questions"
        self.undone = any("undone" in (row.finding.verdict or "") for row in self.analysis.comparisons)
        self.denominator = DENOMINATOR_WORDS[self.settings.convention]
        self.show_condition = self.table.conditions != ("untagged",)
        # Two headline tables: one with seeds pooled, one of the single seeds.
        seeds = {member for pool in self.pools for member in pool.members}
        self.without_seeds = self.table.select_rows(lambda row: row.model.fingerprint not in seeds)
        self.of_seeds = self.table.select_rows(lambda row: row.model.fingerprint in seeds)
        self.varied_runs = [run for run in self.runs if run.manifest.run != JUDGED_TABLE]
        self.varied = find_varied_settings(self.varied_runs)
        values_by_setting = {k: sorted(set(values), key=make_natural_key) for k, values in self.varied.items()}
        self.varied_in_short = {k: ", ".join(values) for k, values in values_by_setting.items()}
        self.unfinished = [run for run in self.runs if run.manifest.status == "running"]
        self.failed = [run for run in self.runs if run.manifest.status in ("failed", LEFT)]
        self.how_failed = " or ".join(sorted({run.manifest.status for run in self.failed}))
        # Each warning once, with the numbers of its runs.
        notes = dict.fromkeys(note for run in self.runs for note in run.manifest.notes)
        self.notes = {note: [run.number for run in self.runs if note in run.manifest.notes] for note in notes}
        judges = ((judge.name, judge.identity) for run in self.runs for judge in run.manifest.judges)
        self.judges = dict.fromkeys(pair for pair in judges if pair[0])

    @cached_property
    def title(self) -> str:
        """The title option, else the file names of judged tables, else the varied settings, else the longest chain."""
        if self.title_option or not self.models:
            return self.title_option or "Report of em"
        if len(self.models) > 1 and len(self.tables) == len(self.runs):
            return ", ".join(label_paths([run.path for run in self.tables]))
        names = dict.fromkeys(model.name for model in self.models.values())
        bases = {name.partition("+")[0] for name in names}
        settings = find_varied_settings(self.runs)
        if len(bases) == 1 and 0 < len(settings) <= MOST_VARIED:
            return f"{bases.pop()} by {', '.join(settings)}"
        others = len(names) - 1
        longest = max(names, key=lambda name: name.count("+"))
        if not others:
            return longest
        return f"{longest} and {others} other {'model' if others == 1 else 'models'}"

    def describe_judge(self, fingerprint: str, judge: str) -> str:
        """Return what the judge is to the model, `the model` or `its base`, else ""."""
        return self.judge_is.get((fingerprint, judge), "")

    @property
    def summary(self) -> str:
        """The numbers of runs, models, question sets and answers."""
        counted = [
            (len(self.runs) - len(self.tables), "run"),
            (len(self.tables), JUDGED_TABLE),
            (len(self.final_models), "model"),
            (len(self.models) - len(self.final_models), "checkpoint"),
            (len(self.table.columns), "question set"),
            (self.payload.answers, "answer"),
        ]
        return " · ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counted if n)

    def name_runs(self, numbers: Sequence[int]) -> str:
        """Return `(run 2)`, `(runs 1, 3)` or `(all runs)`."""
        if len(numbers) == len(self.runs):
            return "(all runs)"
        return f"({'run' if len(numbers) == 1 else 'runs'} {', '.join(map(str, numbers))})"
