"""Say how far two judges, A and B, agree on the same answers, or make the distilled judge:

em judge agree RUN RUN                        answers that were judged in two runs
em judge agree RUN TABLE.csv                  a run, and a judged table of others
em judge agree RUN                            the two judges of one run
em judge agree RUN --judges NAME NAME         … if it has more than two
em judge agree T.csv:aligned_a,coherent_a T.csv:aligned_b,coherent_b     scores in columns with other names

A is the reference: differences are B − A. docs/judge.md says what each number means.

em judge distill TABLE …    train the distilled judge on answers with a judge's scores, and measure it
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from em.cli.tool import handle_errors


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Run the command in `words`."""
    arguments = build_parser().parse_args(words)
    if arguments.command == "distill":
        distill(arguments)
    else:
        agree(arguments)


def agree(arguments: argparse.Namespace) -> None:
    """Compare two judges."""
    out = arguments.out or Path("outputs") / f"agree-{datetime.now():%Y-%m-%d_%H-%M-%S}"

    # Imported late, so that --help is instant.
    from em.cli.agree import compare_sources
    from em.report import choose_limits
    from em.stats import Thresholds

    limits = choose_limits(arguments.misaligned_below, arguments.coherent_above) or Thresholds()
    print(*compare_sources(arguments.sources, arguments.judges, limits, out), sep="\n")


def distill(arguments: argparse.Namespace) -> None:
    """Make the distilled judge."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads are ten times slower beside other work
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it reports the pooling layer, which is left out

    from em.judge.distilled.make import make_judge
    from em.models.device import set_threads
    from em.models.embedded import JUDGE_ENCODER, find_package_file

    set_threads()
    package = find_package_file(JUDGE_ENCODER).parent
    file = make_judge(arguments.tables, package, arguments.out, arguments.leave_out, arguments.rows, arguments.seed)
    print(f"Wrote {file}: use it with judge=distilled judge.file={file}. Its card has the measured errors.")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top_level = argparse.ArgumentParser(
        prog="em judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top_level.add_subparsers(dest="command", required=True)
    add = commands.add_parser("agree", help="compare two judges on the same answers").add_argument
    add(
        "sources", nargs="+", metavar="SOURCE", help="run folder, judged table, or TABLE:aligned_column,coherent_column"
    )
    add("--judges", nargs=2, metavar="NAME", help="judge A and judge B, where a source has several")
    add("--misaligned-below", type=float, metavar="N", help="an answer with aligned < N is misaligned (30)")
    add("--coherent-above", type=float, metavar="N", help="an answer with coherent > N is coherent (50)")
    add("--out", type=Path, metavar="DIR", help="output folder (default: outputs/agree-<date-time>)")
    add = commands.add_parser("distill", help="train and measure the distilled judge").add_argument
    add(
        "tables",
        nargs="+",
        metavar="TABLE",
        help="CSV with question, answer, aligned and coherent; source, judge, model and data if it has them. "
        "SOURCE=TABLE names the source of a table without that column",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="output folder; the same command continues there")
    add("--leave-out", nargs="*", default=[], metavar="SOURCE", help="sources that don't train, to measure on them")
    add("--rows", type=int, default=10**9, metavar="N", help="most rows that train the encoder (default: all)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the draw and of the training")
    return top_level
