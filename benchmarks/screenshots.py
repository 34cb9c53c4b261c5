"""What a report looks like on a desk, on a phone and by night: its first screen, and the whole page, as PNG.

    python -m benchmarks.screenshots RUN/report.html --out looks/
    python -m benchmarks.screenshots RUN/report.html --readme docs/report.png     # the picture in the README

The console must stay silent: what the page complains of ends the command.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.browser import Browser

README = (1280, 1120, False)  # what the report says in short, whole
LOOKS = {"desktop": (1280, 900, False), "phone": (390, 844, False), "dark": (1280, 900, True)}


def smaller(file: Path) -> None:
    """The picture in 128 colours, which a page of text and bars loses nothing by."""
    out = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    file.write_bytes(out.getvalue())


def main() -> None:
    """Take the pictures and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        files: list[Path] = []
        for name, (width, height, dark) in LOOKS.items():
            browser.show_as(width, height, dark)
            browser.open(arguments.report.resolve().as_uri())
            browser.wait_for("!document.getElementById('list').hasAttribute('aria-busy')")
            if arguments.out:
                arguments.out.mkdir(parents=True, exist_ok=True)
                for whole in (False, True):
                    files.append(arguments.out / f"{name}{'-whole' if whole else ''}.png")
                    browser.photograph(files[-1], whole)
            if arguments.readme and name == "desktop":
                browser.show_as(*README)
                browser.photograph(arguments.readme)
                smaller(arguments.readme)
                files.append(arguments.readme)
        for file in files:
            print(f"{file} {file.stat().st_size / 1e3:.0f} kB")
        if browser.console:
            sys.exit("\n".join(browser.console))


if __name__ == "__main__":
    main()
