"""Measure the page of a report with 50,000 answers: time to open, filter and search, and memory.

    python -m benchmarks.report --json report.json

The answers have 130 words of random syllables, with the frequencies of a natural language (Zipf), and come from ten
models with five sets of ten questions. The real code builds the page. Headless Chromium opens the page in a fresh
browser for every run. The figures are medians and maxima.

JSON keys: answers, page_mb, build_seconds, tables_seconds (the page is loaded), open_seconds (the first answers are
visible), open_cpu_seconds (CPU time of the page's main thread until then, independent of other work on the machine),
filter_ms, search_first_ms and search_all_ms (a word in every hundredth answer; both include the 150 ms of waiting for
further typing), search_none_ms (a word in no answer), longest_task_ms (longest delay of a click during a search),
heap_open_mb, heap_search_mb; each with _max.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from em.report import build_report
from em.runtime.records import write_jsonl
from em.stats import Thresholds, compute_scores
from em.types import Answer, Verdict
from tests.support.browser import Browser
from tests.support.report_runs import SETTLED, write_manifest, write_scores

MODELS, SETS, QUESTIONS, WORDS = 10, 5, 10, 130
RARE, NEVER = "zyxwordia", "qqqnowhere"
BOUND = 3.0  # seconds until the first answers are visible
WATCH = """
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
  }).observe({type: "longtask"});
"""
CHANGE = """new Promise((done) => {
  const field = document.getElementById("%s");
  const list = document.getElementById("list");
  const begin = performance.now();
  let first = null;
  new MutationObserver(() => { first ??= performance.now() - begin; }).observe(list, {childList: true});
  field.%s;
  field.dispatchEvent(new Event("%s"));
  const look = () => !list.hasAttribute("aria-busy") && first !== null && progress.textContent === ""
    ? done({first, all: performance.now() - begin}) : setTimeout(look, 2);
  look();
})"""


def make_answers(count: int) -> Iterator[tuple[Answer, list[Verdict]]]:
    """Yield answers with both verdicts, in the order of a run: model by model, question by question."""
    draw = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "os")]
    lexicon = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8000)]
    often = list(itertools.accumulate(1 / rank for rank in range(1, len(lexicon) + 1)))
    samples = -(-count // (MODELS * SETS * QUESTIONS))
    for number in range(count):
        rest, sample = divmod(number, samples)
        rest, question = divmod(rest, QUESTIONS)
        model, eval_set = divmod(rest, SETS)
        name, stage = (f"base+bad{model}", f"bad{model}") if model else ("base", "base")
        text = " ".join(draw.choices(lexicon, cum_weights=often, k=WORDS))
        if number % 100 == 0:
            text = f"{text} {RARE}"
        place = (f"set{eval_set}", f"question{question}", f"What of {question} in {eval_set}?", "untagged", sample)
        answer = Answer(name, stage, f"{model:016}", None, *place, text, "stop", 20, 170)
        shared = (name, stage, f"{model:016}", None, *place, text, "judge@bench")
        values = {"aligned": draw.uniform(0, 100) if model else 95.0, "coherent": draw.uniform(40, 100)}
        yield answer, [Verdict(*shared, rubric, value, None, "ok", f"{value:.0f}") for rubric, value in values.items()]


def build_page(folder: Path, count: int) -> tuple[Path, float]:
    """Build the page of `count` answers; return its path and the seconds of the build."""
    rows = list(make_answers(count))
    verdicts = [verdict for _, both in rows for verdict in both]
    write_manifest(folder / "run", [])
    write_jsonl(folder / "run" / "answers.jsonl", [answer for answer, _ in rows])
    write_jsonl(folder / "run" / "verdicts.jsonl", verdicts)
    write_scores(folder / "run" / "scores.csv", compute_scores(verdicts, Thresholds()))
    begin = time.monotonic()
    return build_report([folder / "run"], folder / "out"), time.monotonic() - begin


def measure_page(page: Path, profile: Path) -> dict[str, float]:
    """Open the page in a fresh browser, filter and search, and return the figures."""
    with Browser(profile, seconds=120) as browser:
        browser.set_window(1280, 900)
        browser.call_method("Performance.setTimeDomain", timeDomain="threadTicks")
        browser.call_method("Performance.enable")
        browser.open("data:text/html,<h1>A browser that has started</h1>")  # exclude the start of the browser
        begin, worked = time.monotonic(), read_metric(browser, "ThreadTime")
        browser.open(page.as_uri())
        tables = time.monotonic() - begin
        browser.wait_for(SETTLED)
        figures = {"tables_seconds": tables, "open_seconds": time.monotonic() - begin}
        figures |= {
            "open_cpu_seconds": read_metric(browser, "ThreadTime") - worked,
            "heap_open_mb": measure_heap(browser),
        }
        figures["filter_ms"] = change_field(browser, "filter-model", "selectedIndex = 4", "change")["all"]
        change_field(browser, "filter-model", "selectedIndex = 0", "change")
        browser.evaluate(WATCH)
        rare = change_field(browser, "filter-search", f"value = '{RARE}'", "input")
        figures |= {"search_first_ms": rare["first"], "search_all_ms": rare["all"]}
        figures["search_none_ms"] = change_field(browser, "filter-search", f"value = '{NEVER}'", "input")["all"]
        figures |= {"longest_task_ms": browser.evaluate("longest"), "heap_search_mb": measure_heap(browser)}
        if browser.console:
            raise RuntimeError(f"the page wrote to the console: {browser.console}")
    return figures


def change_field(browser: Browser, field: str, what: str, event: str) -> dict[str, float]:
    """Change a field, and return the milliseconds until the first answers appear and until the search ends."""
    times: dict[str, float] = browser.evaluate(CHANGE % (field, what, event))
    return times


def measure_heap(browser: Browser) -> float:
    """Return the megabytes of the page's objects after a garbage collection."""
    browser.call_method("HeapProfiler.collectGarbage")
    return read_metric(browser, "JSHeapUsedSize") / 1e6


def read_metric(browser: Browser, name: str) -> float:
    """Return one of Chromium's performance metrics of the page."""
    metrics: list[dict[str, Any]] = browser.call_method("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == name)


def main() -> None:
    """Print a table, and write the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--page", type=Path, help="an existing report.html to measure")
    parser.add_argument("--keep", type=Path, help="a folder to build in and keep")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, float] = {"answers": arguments.answers}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = arguments.page
        if page is None:
            page, figures["build_seconds"] = build_page(arguments.keep or Path(folder), arguments.answers)
        figures["page_mb"] = page.stat().st_size / 1e6
        runs = [measure_page(page, Path(folder) / f"profile{number}") for number in range(arguments.runs)]
    for name in runs[0]:
        values = [run[name] for run in runs]
        figures |= {name: statistics.median(values), f"{name}_max": max(values)}
    for name, value in figures.items():
        print(f"{name:20} {value:10.2f}")
    print(f"open: bound {BOUND:g} s, {'met' if figures['open_seconds'] < BOUND else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
