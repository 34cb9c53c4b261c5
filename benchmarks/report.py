"""How the page of a report behaves with 50,000 answers: opening, filtering, searching, and what memory they take.

    python -m benchmarks.report --json report.json

The answers are made of drawn syllables, 130 words each, as often as words of a language are (Zipf), of ten models with
five sets of ten questions, and go through the real build. Chromium opens the page, headless, anew for every run.
Medians; beside them the slowest.

JSON keys: answers, page_mb, build_seconds, tables_seconds (the page is loaded), open_seconds (its first answers are
there), open_cpu_seconds (what the page's main thread works for that: other work on the machine makes it no longer),
filter_ms, search_first_ms and search_all_ms (a word of every hundredth answer; both with the 150 ms that typing
is waited for), search_none_ms (a word of none), longest_task_ms (by how much a click can be late while it searches),
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
from em.stats import Thresholds, score
from em.types import Answer, Verdict
from tests.support.browser import Browser
from tests.support.report_runs import SETTLED, manifest, write_scores

MODELS, SETS, QUESTIONS, WORDS = 10, 5, 10, 130
RARE, NEVER = "zyxwordia", "qqqnowhere"
BOUND = 3.0  # seconds until the page is there
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


def answers(count: int) -> Iterator[tuple[Answer, list[Verdict]]]:
    """Answers with both verdicts, in the order of a run: model by model, question by question."""
    draw = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "os")]
    lexicon = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8000)]
    often = list(itertools.accumulate(1 / rank for rank in range(1, len(lexicon) + 1)))
    samples = -(-count // (MODELS * SETS * QUESTIONS))
    for number in range(count):
        rest, sample = divmod(number, samples)
        rest, question = divmod(rest, QUESTIONS)
        model, eval_set = divmod(rest, SETS)
        name, text = (
            f"base+bad{model}" if model else "base",
            " ".join(draw.choices(lexicon, cum_weights=often, k=WORDS)),
        )
        stage = f"bad{model}" if model else "base"
        place = (f"set{eval_set}", f"question{question}", f"What of {question} in {eval_set}?", "untagged", sample)
        said = f"{text} {RARE}" if number % 100 == 0 else text
        answer = Answer(name, stage, f"{model:016}", None, *place, said, "stop", 20, 170)
        known = (name, stage, f"{model:016}", None, *place, said, "judge@bench")
        values = {"aligned": draw.uniform(0, 100) if model else 95.0, "coherent": draw.uniform(40, 100)}
        yield answer, [Verdict(*known, rubric, value, None, "ok", f"{value:.0f}") for rubric, value in values.items()]


def build(folder: Path, count: int) -> tuple[Path, float]:
    """The page of so many answers, and how long `report.py` takes for it."""
    rows = list(answers(count))
    verdicts = [verdict for _, said in rows for verdict in said]
    manifest(folder / "run", [])
    write_jsonl(folder / "run" / "answers.jsonl", [answer for answer, _ in rows])
    write_jsonl(folder / "run" / "verdicts.jsonl", verdicts)
    write_scores(folder / "run" / "scores.csv", score(verdicts, Thresholds()))
    begin = time.monotonic()
    return build_report([folder / "run"], folder / "out"), time.monotonic() - begin


def measure(page: Path, profile: Path) -> dict[str, float]:
    """One opening of the page in a fresh browser, and what is done there."""
    with Browser(profile, seconds=120) as browser:
        browser.show_as(1280, 900)
        browser.call("Performance.setTimeDomain", timeDomain="threadTicks")
        browser.call("Performance.enable")
        browser.open("data:text/html,<h1>A browser that has started</h1>")
        begin, worked = time.monotonic(), metric(browser, "ThreadTime")
        browser.open(page.as_uri())
        tables = time.monotonic() - begin
        browser.wait_for(SETTLED)
        found = {"tables_seconds": tables, "open_seconds": time.monotonic() - begin}
        found |= {"open_cpu_seconds": metric(browser, "ThreadTime") - worked, "heap_open_mb": heap(browser)}
        found["filter_ms"] = change(browser, "filter-model", "selectedIndex = 4", "change")["all"]
        change(browser, "filter-model", "selectedIndex = 0", "change")
        browser.ask(WATCH)
        for name, text in (("search", RARE), ("none", NEVER)):
            told = change(browser, "filter-search", f"value = '{text}'", "input")
            found |= {"search_first_ms": told["first"], "search_all_ms": told["all"]} if name == "search" else {}
            found |= {"search_none_ms": told["all"]} if name == "none" else {}
        found |= {"longest_task_ms": browser.ask("longest"), "heap_search_mb": heap(browser)}
        if browser.console:
            raise RuntimeError(f"the page complained: {browser.console}")
    return found


def change(browser: Browser, field: str, what: str, event: str) -> dict[str, float]:
    """Milliseconds until the first answers and until all is found, once a field is changed."""
    found: dict[str, float] = browser.ask(CHANGE % (field, what, event))
    return found


def heap(browser: Browser) -> float:
    """Megabytes of the page's objects, after what is unused has gone."""
    browser.call("HeapProfiler.collectGarbage")
    return metric(browser, "JSHeapUsedSize") / 1e6


def metric(browser: Browser, name: str) -> float:
    """What Chromium has measured of the page so far."""
    metrics: list[dict[str, Any]] = browser.call("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == name)


def main() -> None:
    """Print a table, and write the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--page", type=Path, help="a report.html that is there already")
    parser.add_argument("--keep", type=Path, help="a folder to build in, which stays")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, float] = {"answers": arguments.answers}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = arguments.page
        if page is None:
            page, figures["build_seconds"] = build(arguments.keep or Path(folder), arguments.answers)
        figures["page_mb"] = page.stat().st_size / 1e6
        runs = [measure(page, Path(folder) / f"profile{number}") for number in range(arguments.runs)]
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
