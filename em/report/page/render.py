"""The page: one HTML file that needs no network and runs no script but its own.

Model output is hostile text. The template escapes all text; answers are stored as JSON, from which the script makes
text nodes; and the content security policy allows only our own script and style, by their hashes, so that injected
code would not run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from markupsafe import Markup, escape

from em.report.page import numbers
from em.report.page.contents import Page
from em.report.page.words import DENOMINATORS, STATUSES, explain_word_rules
from em.report.read.runs import JUDGED_TABLE
from em.report.tables.cells import mark_related_judge
from em.report.tables.sections import FEW_ROWS

HERE = Path(__file__).parent
SCRIPTS, STYLES = ("blocks.js", "answers.js", "page.js", "paper.js"), ("page.css",)


def render_page(page: Page) -> str:
    """Return the HTML file as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": numbers.format_percent,
        "points": numbers.format_points,
        "bound": numbers.format_bound,
        "p_value": numbers.format_p_value,
    }
    environment.filters |= {"decimals": numbers.format_coefficient, "whole": numbers.format_whole_number}
    environment.filters |= {"dollars": numbers.format_dollars, "usage": numbers.format_usage}
    environment.filters |= {
        "data_uri": _make_data_uri,
        "fact": _format_fact,
        "breakable": _allow_breaks,
        "kin": mark_related_judge,
        "word_rules": explain_word_rules,
    }
    environment.filters |= {
        "status": STATUSES.__getitem__,
        "of": DENOMINATORS.__getitem__,
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
        policy=Markup(policy),  # only hashes and keywords, no text of others
        script=Markup(script),
        style=Markup(style),
        data=Markup("\n").join(page.payload.elements),
    )


def _format_fact(value: object) -> str:
    """Format a fact of a stage; a dash if the manifest does not have it."""
    if value is None or not isinstance(value, (str, int, float, list, dict)):  # None or jinja's Undefined
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _allow_breaks(text: str) -> Markup:
    """Allow line breaks behind the punctuation of a long name. HTML escapes contain none of it."""
    return Markup(re.sub(r"([+_/=]|(?<=[a-z])\.(?=[a-z]))", r"\1<wbr>", str(escape(text))))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _make_data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
