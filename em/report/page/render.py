"""The page: one HTML file that needs no network and runs no script but its own.

Model output is hostile text. The template escapes what it shows; answers travel in JSON, from which the script makes
text nodes; and the content security policy names the script and the style by their hashes, so that
nothing else would run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from markupsafe import Markup, escape

from em.report.page import numbers
from em.report.page.contents import Page
from em.report.page.words import STATUSES
from em.report.read.runs import JUDGED_TABLE
from em.report.tables.cells import kin_mark
from em.report.tables.sections import FEW_ROWS

HERE = Path(__file__).parent
SCRIPTS, STYLES = ("blocks.js", "answers.js", "page.js", "paper.js"), ("page.css",)


def render(page: Page) -> str:
    """The whole HTML file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for write in ("share", "points", "p_value", "decimals", "whole", "dollars", "usage"):
        environment.filters[write] = getattr(numbers, write)
    environment.filters |= {"data_uri": _data_uri, "fact": _fact, "breakable": _breakable, "kin": kin_mark}
    environment.filters |= {
        "status": STATUSES.__getitem__,
        "judge": page.judge_names.__getitem__,
        "below": "below {}".format,
    }
    script, style = ("".join((HERE / name).read_text("utf-8") for name in names) for names in (SCRIPTS, STYLES))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page,
        few=FEW_ROWS,
        judged_table=JUDGED_TABLE,
        policy=Markup(policy),  # all ours: hashes and keywords
        script=Markup(script),
        style=Markup(style),
        data=Markup("\n").join(page.payload.elements),
    )


def _fact(value: object) -> str:
    """A fact of a stage as text; a dash for one that the manifest doesn't have."""
    if value is None or not isinstance(value, (str, int, float, list, dict)):  # None or jinja's Undefined
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _breakable(text: str) -> Markup:
    """A long name that may break behind its punctuation, of which none occurs in what escaping writes."""
    return Markup(re.sub(r"([+_/=]|(?<=[a-z])\.(?=[a-z]))", r"\1<wbr>", str(escape(text))))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
