"""Accessibility of the page: axe-core in Chromium in light and dark mode, keyboard, print."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.report import build_report, find_run_paths
from tests.support.axe import list_violations, load_axe
from tests.support.browser import CHROMIUM, Browser
from tests.support.report_panel import write_panel
from tests.support.report_runs import SETTLED, write_stages, write_sweep

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page can't be opened")
WINDOWS = ((1280, 900, False), (1280, 900, True), (390, 844, False))
OPEN_ALL = 'document.querySelectorAll("details").forEach((each) => { each.open = true; })'


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Reports that together have every section: a sweep, two stages with tags, two judges."""
    root = tmp_path_factory.mktemp("pages")
    write_sweep(root / "sweep")
    write_stages(root / "stages" / "0")
    for name in ("sweep", "stages"):
        build_report(find_run_paths([root / name]), root / "out" / name)
    return [root / "out" / "sweep", root / "out" / "stages", write_panel(root / "panel")]


def test_axe_finds_nothing_serious(reports: list[Path], tmp_path: Path) -> None:
    source = load_axe()
    if source is None:
        pytest.skip("npm can't fetch axe-core here")
    with Browser(tmp_path / "profile") as browser:
        for out in reports:
            browser.open((out / "report.html").as_uri())
            browser.wait_for(SETTLED)
            browser.evaluate(OPEN_ALL)
            for width, height, dark in WINDOWS:
                browser.set_window(width, height, dark)
                assert list_violations(browser, source) == [], (out.name, width, dark)
        assert browser.console == []


def test_what_scrolls_is_reached_by_keyboard_and_nothing_else_is_a_stop(reports: list[Path], tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.set_window(390, 844)
        browser.open((reports[2] / "report.html").as_uri())
        browser.wait_for(SETTLED)
        browser.evaluate('document.querySelector(".raw").textContent = "word ".repeat(2000)')
        browser.evaluate('window.dispatchEvent(new Event("resize"))')
        stops = browser.evaluate('[...document.querySelectorAll(".raw")].map((each) => each.tabIndex)')
        assert stops[0] == 0
        assert set(stops[1:]) == {-1}
        assert browser.evaluate('document.querySelector(".raw").getAttribute("aria-label")').startswith("Reply of ")


def test_paper_has_what_was_folded(reports: list[Path], tmp_path: Path) -> None:
    folded = '[...document.querySelectorAll("details")].filter((each) => !each.open).length'
    with Browser(tmp_path / "profile") as browser:
        browser.open((reports[0] / "report.html").as_uri())
        browser.wait_for(SETTLED)
        before = browser.evaluate(folded)
        browser.evaluate(f'window.addEventListener("beforeprint", () => {{ window.printed = {folded}; }})')
        browser.call_method("Page.printToPDF")
        browser.wait_for("window.printed !== undefined")
        assert (before > 0, browser.evaluate("window.printed")) == (True, 0)
        assert browser.evaluate(folded) == before, "folded again after printing"
