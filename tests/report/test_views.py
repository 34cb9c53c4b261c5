"""The transcripts in Chromium: filters, search, two models side by side, addresses of answers and views."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from em.report import build_report
from em.report.page import payload
from tests.support.browser import CHROMIUM, Browser
from tests.support.report_panel import SECOND as PANEL_JUDGE
from tests.support.report_panel import write_panel
from tests.support.report_runs import (
    BASE,
    JUDGE,
    ONE_EPOCH,
    SCRIPT,
    SETTLED,
    make_spread_verdicts,
    read_page_data,
    read_report_page,
    write_judged,
    write_sweep,
)

NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page can't be opened")
pytestmark = NEEDS_CHROMIUM
FIRST, SECOND = "smollm2+car_bad (trainer.epochs=1)", "smollm2+car_bad (trainer.epochs=2)"
HELPERS = """
  window.told = () => document.getElementById("matches").textContent;
  window.put = (id, value, event) => {
    const field = document.getElementById(id);
    field.value = field.tagName === "SELECT"
      ? [...field.options].find((option) => option.text.startsWith(value)).value : value;
    field.dispatchEvent(new Event(event || "change"));
  };
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of two runs: 12 answers of three models."""
    root = tmp_path_factory.mktemp("views")
    build_report(write_sweep(root), root / "report")
    return root / "report"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium for all tests of this file, whose console must stay empty."""
    with Browser(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium
        assert chromium.console == []


def open_report(browser: Browser, out: Path, address: str = "") -> Browser:
    """Open the page and wait for its answers."""
    browser.open("about:blank")  # else another address of the same page would not reload it
    browser.open((out / "report.html").as_uri() + address)
    browser.wait_for(SETTLED)
    browser.evaluate(HELPERS)
    return browser


def put_filter(browser: Browser, field: str, value: str) -> str:
    """Set a filter; return the page's text on the number of matching answers."""
    browser.evaluate(f"put({json.dumps(field)}, {json.dumps(value)})")
    browser.wait_for(SETTLED)
    return str(browser.evaluate("told()"))


def fill_filters(browser: Browser, expected: str, **fields: str) -> None:
    """Type into fields, and wait for the expected text on the number of matching answers."""
    for name, text in fields.items():
        browser.evaluate(f'put("filter-{name}", {json.dumps(text)}, "input")')
    browser.wait_for(f"told() === {json.dumps(expected)} && {SETTLED}")


def test_filters_find_answers(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    steps = [
        ("class", "misaligned", "3 of 12"),
        ("model", FIRST, "1 of 12"),
        ("model", "any", "3 of 12"),
        ("class", "any", "12"),
        ("set", "facts", "2 of 12"),
        ("question", "legs", "2 of 12"),
        ("question", "any", "2 of 12"),
        ("set", "any", "12"),
        ("status", "unparsed", "2 of 12"),
    ]
    shown = [put_filter(browser, f"filter-{name}", value) for name, value, _ in steps]
    assert shown == [f"{n} answers" for _, _, n in steps]


def test_a_count_leads_to_its_answers_whatever_was_filtered_before(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    put_filter(browser, "filter-stage", "base")
    fill_filters(browser, "0 of 12 answers", search="nowhere")
    browser.evaluate("""document.querySelector('a[data-class="unscored"]').click()""")
    browser.wait_for(SETTLED)
    assert browser.evaluate("told()") == "1 of 12 answers"
    assert browser.evaluate('document.getElementById("filter-stage").value') == ""


def test_text_is_found_in_either_case_and_marked(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    fill_filters(browser, "2 of 12 answers", search="WELL")
    assert browser.evaluate('document.querySelector("mark").textContent') == "Well"
    fill_filters(browser, "0 of 12 answers", search="nowhere")
    fill_filters(browser, "2 of 12 answers", search="</SCRIPT><script>")
    assert browser.evaluate('document.querySelector(".answer mark").textContent') == "</script><script>"
    assert browser.evaluate("document.body.dataset.pwned === undefined")


def test_answers_are_found_by_score(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    fill_filters(browser, "3 of 12 answers", low="0", high="10")
    assert put_filter(browser, "filter-rubric", "coherent") == "0 of 12 answers"
    fill_filters(browser, "8 of 12 answers", low="90", high="90")


def test_judges_are_not_mixed(tmp_path: Path, browser: Browser) -> None:
    open_report(browser, write_panel(tmp_path))
    for judge, count in ((JUDGE, 21), (PANEL_JUDGE, 60)):
        link = f'a[data-class="misaligned"][data-model="{ONE_EPOCH[0]}"][data-judge="{judge}"]'
        browser.evaluate(f"document.querySelector({json.dumps(link)}).click()")
        browser.wait_for(SETTLED)
        assert browser.evaluate("told()").startswith(f"{count} of 120 answers"), judge


def test_two_models_stand_side_by_side_on_one_question(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    put_filter(browser, "filter-model", FIRST)
    put_filter(browser, "filter-set", "probe")
    put_filter(browser, "beside", SECOND)
    pairs = '[...document.querySelectorAll(".pair")]'
    assert browser.evaluate(f"{pairs}.length") == 4
    names = f'{pairs}.map((pair) => [...pair.querySelectorAll("h3 span:first-child")].map((name) => name.textContent))'
    assert browser.evaluate(names) == [[FIRST, SECOND]] * 4
    begin = "#show?model=smollm2%2Bcar_bad+%28trainer.epochs%3D1%29&set=probe&beside="
    assert browser.evaluate("location.hash").startswith(begin)


# Addresses


def test_an_address_leads_to_one_answer_or_to_a_view(sweep: Path, browser: Browser) -> None:
    open_report(browser, sweep)
    link = browser.evaluate('document.querySelectorAll(".permalink")[2].getAttribute("href")')
    wanted = browser.evaluate('document.querySelectorAll(".answer")[2].textContent')
    assert re.fullmatch(r"#answer-[0-9a-f]{10}", link)
    open_report(browser, sweep, link)
    assert browser.evaluate("told()") == "1 of 12 answers"
    assert browser.evaluate('document.querySelector(".answer").textContent') == wanted
    open_report(browser, sweep, "#show?class=misaligned&text=IMG")
    assert browser.evaluate("told()") == "1 of 12 answers"


def test_an_answer_of_another_report_is_said_to_be_missing(sweep: Path, browser: Browser) -> None:
    for address in ("#answer-0123456789", "#answer-3"):
        open_report(browser, sweep, address)
        assert browser.evaluate('document.querySelector("#list").textContent').startswith(
            "This answer is not in this report"
        )


def test_an_answer_keeps_its_address_in_other_reports(sweep: Path, tmp_path: Path) -> None:
    runs = [sweep.parent / "1", sweep.parent / "0"]
    build_report(runs[:1], tmp_path / "one")
    build_report(runs, tmp_path / "both")
    reports = list_reports(sweep, tmp_path)
    first, *others = ({item["answer"]: place for item, place in list_addresses(out)} for out in reports)
    for other in others:
        assert all(first[answer] == place for answer, place in other.items() if answer != SCRIPT)


def list_reports(sweep: Path, folder: Path) -> list[Path]:
    """Return the reports to compare: of the sweep, of one run, of two runs in another order."""
    return [sweep, folder / "one", folder / "both"]


def list_addresses(out: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the answers of the base model with their addresses."""
    packed = read_page_data(out)
    for number, item in enumerate(packed["items"]):
        if packed["models"][item["model"]] == "smollm2":
            yield item, packed["ids"][10 * number : 10 * number + 10]


# Large data


def test_much_data_is_packed_in_blocks_and_searched_through(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "BLOCK", 7)
    monkeypatch.setattr(payload, "MUCH", 1000)
    verdicts = [*make_spread_verdicts(BASE, [0, 1, 0], 20), *make_spread_verdicts(ONE_EPOCH, [3, 9, 2], 20)]
    write_judged(tmp_path / "run", verdicts)
    build_report([tmp_path / "run"], tmp_path / "out")
    assert read_report_page(tmp_path / "out").count('<script type="application/gzip" id="block-') == 18
    open_report(browser, tmp_path / "out")
    fill_filters(browser, "60 of 120 answers, 1 to 25 shown", search="of 1111aaaa")
    fill_filters(browser, "3 of 120 answers", search="answer 19 of 1111AAAA")
    assert browser.evaluate('document.querySelectorAll(".answer mark").length') == 3


def test_what_cannot_be_read_is_said(tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MUCH", 10)
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [0, 1]))
    build_report([tmp_path / "run"], tmp_path / "out")
    matches = 'document.getElementById("matches").textContent'
    file = tmp_path / "out" / "report.html"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r'(id="data">).{9}', r"\1AAAAAAAAA", text), encoding="utf-8")
    browser.open(file.as_uri())
    browser.wait_for(f'{matches}.startsWith("The answers can’t be read (")')
    assert "answers.jsonl" in browser.evaluate(matches)
