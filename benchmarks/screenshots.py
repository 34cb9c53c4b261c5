"""Take screenshots of a report on a desktop, on a phone and in dark mode: the first screen and the full page, as PNG.

    python -m benchmarks.screenshots RUN/report.html --out looks/
    python -m benchmarks.screenshots RUN/report.html --readme docs/report.png     # the picture in the README

The page must not write to the console: any message makes the command fail.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.browser import Browser

README = (1280, 1120, False)  # high enough to show the report's whole summary
LOOKS = {"desktop": (1280, 900, False), "phone": (390, 844, False), "dark": (1280, 900, True)}


def reduce_colours(file: Path) -> None:
    """Reduce a picture to 128 colours, which are enough for a page of text and bars."""
    out = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    file.write_bytes(out.getvalue())


def main() -> None:
    """Take the screenshots, and print their paths and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        files: list[Path] = []
        for name, (width, height, dark) in LOOKS.items():
            browser.set_window(width, height, dark)
            browser.open(arguments.report.resolve().as_uri())
            browser.wait_for("!document.getElementById('list').hasAttribute('aria-busy')")
            if arguments.out:
                arguments.out.mkdir(parents=True, exist_ok=True)
                for full_page in (False, True):
                    files.append(arguments.out / f"{name}{'-whole' if full_page else ''}.png")
                    browser.save_screenshot(files[-1], full_page)
            if arguments.readme and name == "desktop":
                browser.set_window(*README)
                browser.save_screenshot(arguments.readme)
                reduce_colours(arguments.readme)
                files.append(arguments.readme)
        for file in files:
            print(f"{file} {file.stat().st_size / 1e3:.0f} kB")
        if browser.console:
            sys.exit("\n".join(browser.console))


if __name__ == "__main__":
    main()
