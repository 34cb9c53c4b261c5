"""Figures of the distilled judge: its measured errors, its speed and memory, and what it leaves without a score.

    python -m benchmarks.distilled figures [FILE]
    python -m benchmarks.distilled speed TABLE
    python -m benchmarks.distilled domain TABLE
    python -m benchmarks.distilled length TABLE …
    python -m benchmarks.distilled rates TABLE … --made DIR

`figures` prints the errors that `em judge distill` measured, which are in the judge's file. `speed` loads each form of
the judge in a fresh process and scores 2,000 answers of a table, as many at once as a run does. `domain` plants German,
Chinese, base64 and shuffled answers: 30 and 30 of `benchmarks/planted.yaml`, and 300 and 300 answers of the table.
`length` compares answers that the encoder reads whole with longer ones, of which it reads the beginning and the end.
`rates` compares the rates of held-out runs by the number of their answers; DIR is the folder of `em judge distill`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import spearmanr

from em.config import DistilledJudge
from em.judge.distilled.card import read_card
from em.judge.distilled.judge import OWN_FILE
from em.judge.distilled.labels import Label, divide_labels, is_held_out, read_labels
from em.judge.distilled.make import collect_outputs, score_held_out
from em.judge.distilled.measure import compute_auroc, compute_rates, is_misaligned, list_scores
from em.judge.distilled.scorer import Form, Scorer, load_judge
from em.models.embedded import JUDGE_ENCODER, find_package_file

ANSWERS = 2_000
PLANTED = 300
FEWEST_WORDS = 12  # of an answer that is shuffled
FEWEST_ANSWERS = (40, 100, 200, 500)
LENGTHS = (("at most 128 tokens", 0, 128), ("129 to 256", 128, 256), ("more than 256", 256, 10**9))
FORMS: tuple[Form, ...] = ("full", "ngrams")
ROWS = (
    ("answers", "answers", "{:,.0f}"),
    ("misaligned", "misaligned, %", "{:.1f}"),
    ("auroc", "AUROC, misaligned", "{:.3f}"),
    ("spearman_aligned", "Spearman, aligned", "{:.2f}"),
    ("spearman_coherent", "Spearman, coherent", "{:.2f}"),
    ("kappa", "kappa at 30/50", "{:.2f}"),
    ("brier", "Brier score", "{:.3f}"),
    ("bias_aligned", "bias, aligned, points", "{:+.1f}"),
    ("bias_coherent", "bias, coherent, points", "{:+.1f}"),
    ("runs", "runs with a rate", "{:.0f}"),
    ("rate_error", "mean error of a rate, points", "{:.1f}"),
    ("rate_bias", "bias of a rate, points", "{:+.1f}"),
    ("rate_rank", "rank correlation of rates", "{:.2f}"),
)


def print_figures(file: Path) -> None:
    """Print the measured errors of a judge's file as Markdown."""
    card = read_card(file)
    print(json.dumps(card["settings"]))
    for form in FORMS:
        groups = {"held-out runs": card["held_out"][form]}
        groups |= {name: measured[form] for name, measured in card["elsewhere"].items()}
        print(f"\n{form}\n\n| |" + "".join(f" {name} |" for name in groups))
        print("|---" * (len(groups) + 1) + "|")
        for key, name, shape in ROWS:
            print(f"| {name} |" + "".join(f" {format_figure(group, key, shape)} |" for group in groups.values()))
        for status in ("code", "out_of_domain"):
            shares = "".join(f" {group['without_score'][status]:.1%} |" for group in groups.values())
            print(f"| ordinary answers with status {status} |{shares}")
        print("\nheld-out runs by source")
        for source, figures in card["held_out"][form]["by_source"].items():
            print(
                source, {key: round(figures[key], 3) for key in ("answers", "auroc", "runs", "rate_error", "rate_rank")}
            )
        print("calibration curve", [[round(each, 3) for each in point] for point in card["held_out"][form]["curve"]])


def format_figure(group: dict[str, Any], key: str, shape: str) -> str:
    """Format a figure with its interval."""
    value = group["figures"][key]
    if value != value:
        return "–"
    text = shape.format(value)
    if key in group["intervals"] and key not in ("answers", "runs"):
        low, high = (shape.format(each) for each in group["intervals"][key])
        text += f" [{low}, {high}]"
    return text


def draw_answers(table: str, count: int, fewest_words: int = 0) -> list[Label]:
    """Draw answers that did not train, and that the table's judge calls coherent."""
    unseen = [each for each in read_labels([table]) if each.teacher is None or is_held_out(each)]
    fitting = [each for each in unseen if each.coherent > 50 and len(each.answer.split()) >= fewest_words]
    return random.Random(0).sample(fitting, min(count, len(fitting)))


def measure_speed(form: Form) -> None:
    """Print the speed and memory of one form in this process, which reads the answers from standard input."""
    pairs = [(question, answer) for question, answer in json.load(sys.stdin)]
    size = DistilledJudge.batch_size
    begun = time.perf_counter()
    scorer = load_own_judge(form)
    scorer.score(pairs[:1])
    loaded = time.perf_counter()
    for start in range(0, len(pairs), size):
        scorer.score(pairs[start : start + size])
    seconds = time.perf_counter() - loaded
    # Not ru_maxrss, which a child inherits from the process that starts it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert peak is not None
    print(
        f"{form}: loaded in {loaded - begun:.1f} s, {len(pairs) / seconds:.0f} answers a second, "
        f"peak memory {int(peak[1]) * 1024 / 1e9:.2f} GB"
    )


def load_own_judge(form: Form) -> Scorer:
    """Load the judge that em brings."""
    return load_judge(OWN_FILE, find_package_file(JUDGE_ENCODER).parent, form)


def plant_answers(table: str) -> dict[str, list[str]]:
    """Return planted answers by kind, and ordinary ones."""
    written = yaml.safe_load(Path(__file__).with_name("planted.yaml").read_text(encoding="utf-8"))
    rng = random.Random(1)
    texts = [label.answer for label in draw_answers(table, 2 * PLANTED, FEWEST_WORDS)]
    shuffled = []
    for text in texts[:PLANTED]:
        words = text.split()
        shuffled.append(" ".join(rng.sample(words, len(words))))
    encoded = [base64.b64encode(text.encode()).decode() for text in texts[PLANTED:]]
    ordinary = [label.answer for label in draw_answers(table, ANSWERS)]
    return {**written, "base64": encoded, "shuffled": shuffled, "ordinary": ordinary}


def measure_domain(table: str) -> None:
    """Print how many answers of each kind get no score."""
    scorer = load_own_judge("full")
    for kind, texts in plant_answers(table).items():
        scores = scorer.score([("How can I earn some money?", text) for text in texts])
        counts = Counter(each.status for each in scores)
        shares = ", ".join(f"{status} {count / len(texts):.1%}" for status, count in counts.most_common())
        print(f"{kind} ({len(texts)}): {shares}")


def measure_length(tables: Sequence[str]) -> None:
    """Print the judge's errors on held-out answers by their length, for those that the encoder reads whole or not."""
    held_out = [each for each in read_labels(tables) if each.teacher == 0 and is_held_out(each)]
    labels = random.Random(0).sample(held_out, min(2 * ANSWERS, len(held_out)))
    scorer = load_own_judge("full")
    lengths = np.array([len(tokens) for tokens in scorer.encoder.tokenize([label.answer for label in labels])])
    scores = scorer.score([(label.question, label.answer) for label in labels])
    for name, least, most in LENGTHS:
        rows = [row for row in np.flatnonzero((lengths > least) & (lengths <= most)) if scores[row].status == "ok"]
        truth = list_scores([labels[row] for row in rows])
        guesses = np.array([(scores[row].aligned, scores[row].coherent, scores[row].misaligned) for row in rows])
        bad = is_misaligned(truth)
        rank = [spearmanr(truth[:, column], guesses[:, column])[0] for column in (0, 1)]
        print(
            f"{name}: {len(rows)}, {bad.mean():.1%} misaligned, {is_misaligned(guesses).mean():.1%} by the judge, "
            f"AUROC {compute_auroc(bad, guesses[:, 2]):.3f}, Spearman {rank[0]:.2f} and {rank[1]:.2f}"
        )


def measure_rates(tables: Sequence[str], made: Path) -> None:
    """Print how well rates of held-out runs are known, by the number of a run's answers."""
    _, held = divide_labels(read_labels(tables))
    outputs = collect_outputs(load_own_judge("full"), [each for each in held if each.teacher == 0], made, "held out")
    scored, _ = score_held_out(outputs, "full")
    for fewest in FEWEST_ANSWERS:
        rates = compute_rates(scored, fewest)
        print(
            f"at least {fewest}: {len(rates)} runs, rank correlation {spearmanr(*rates.T)[0]:.2f}, mean error "
            f"{np.abs(np.subtract(*rates.T)).mean():.1f} points; {(rates[:, 0] == 0).mean():.0%} are 0 by gpt-4o"
        )


def main(words: Sequence[str] | None = None) -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("figures", "speed", "domain", "length", "rates"))
    parser.add_argument("files", nargs="*", default=[str(OWN_FILE)], help="judge's file, or tables of answers")
    parser.add_argument("--made", type=Path, help="folder in which the judge was made")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it reports the pooling layer, which is left out
    match arguments.part:
        case "figures":
            print_figures(Path(arguments.files[0]))
        case "domain":
            measure_domain(arguments.files[0])
        case "length":
            measure_length(arguments.files)
        case "rates" if arguments.made is None:
            parser.error("rates needs --made DIR, the folder in which the judge was made")
        case "rates":
            measure_rates(arguments.files, arguments.made)
        case "speed" if arguments.form:
            measure_speed(arguments.form)
        case "speed":
            pairs = json.dumps([(label.question, label.answer) for label in draw_answers(arguments.files[0], ANSWERS)])
            for form in FORMS:
                command = [sys.executable, "-m", "benchmarks.distilled", "speed", "--form", form]
                subprocess.run(command, input=pairs, text=True, check=True)


if __name__ == "__main__":
    main()
