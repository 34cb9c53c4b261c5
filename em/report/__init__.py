"""What people look at: one self-contained page, figures with their numbers, and merged scores of one or many runs.

`em report` is its command line (`em/cli/report.py`); the pipeline calls `build_report([run], run)` at the end of a run.
"""

from em.report.build import build_report
from em.report.read.runs import choose_limits, find_runs

__all__ = ["build_report", "choose_limits", "find_runs"]
