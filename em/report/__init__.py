"""The report on one or many runs: a self-contained page, figures with their numbers as CSV, and merged scores.

Its command line is `em report` (`em/cli/report.py`); at the end of a run the pipeline calls `build_report([run], run)`.
"""

from em.report.build import build_report
from em.report.read.runs import TableOptions, choose_limits, find_run_paths
from em.report.read.settings import choose_settings

__all__ = ["TableOptions", "build_report", "choose_limits", "choose_settings", "find_run_paths"]
