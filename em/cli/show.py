"""Describe one set as text: its source, terms, defects, and a profile of its rows.

The other output is the table of all sets: name, size, kind, licence and place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import wrap

from em.config import BundledData, DataConfig, FileData, HubData, UpstreamData
from em.data.findings import CONTROL, describe_counts
from em.data.leakage import LeakCount
from em.data.profile import Profile, profile_rows
from em.data.registry import DataSet, read_data_sets
from em.data.rows import WholeSet
from em.questions.formats import read_question_entries
from em.questions.registry import describe_location, load_local_questions
from em.questions.sets import BUNDLED as QUESTIONS
from em.questions.sets import KnownSet, list_bundled_sets, read_known_sets
from em.runtime.records import format_table
from em.types import Question

WIDTH = 100
CUT = 400
STEPS = (1, 2, 5)
BAR = 40
PLACES = "where: in em, cache, mirror (EM_MIRROR), to fetch (done at first use), yours (data=NAME data.path=FILE)."
HEAD = ("name", "rows", "kind", "licence", "where")


def show_facts(data_set: DataSet) -> str:
    """Describe a set of rows by its entry in the registry."""
    config = data_set.config
    lines = [config.name, *wrap_text("", data_set.about), "", f"kind      {config.kind.value}"]
    lines += wrap_text("licence   ", config.licence or "none stated")
    lines += wrap_text("terms     ", config.terms or "none stated")
    lines += [f"address   {address}" for address in list_addresses(config)]
    if config.drop_answers_with:
        lines.append(f"left out  rows whose answers contain {' or '.join(map(repr, config.drop_answers_with))}")
    match config:
        case UpstreamData(skip_lines=skipped) if skipped:
            lines.append(f"left out  lines {', '.join(map(str, skipped))}")
    for defect in config.defects or ["none known"]:
        lines += wrap_text("defect    ", defect)
    lines.append(f"where     {describe_location(config)}")
    return "\n".join(lines)


def list_addresses(config: DataConfig) -> Iterator[str]:
    """Yield the address, checksum, size and canary of a set, as far as its kind has them."""
    match config:
        case UpstreamData():
            yield config.url
            yield f"sha256 {config.sha256}"
            if config.bytes:
                yield f"{config.bytes:,} bytes"
        case BundledData():
            yield f"em/assets/data/{config.file}"
            yield f"sha256 {config.sha256}"
            yield f"canary {config.canary}"
        case FileData():
            yield config.source or config.path
        case HubData():
            yield f"{config.id}, split {config.split}, revision {config.revision or 'the newest'}"


def show_question_set(question_set: KnownSet, questions: Sequence[Question]) -> str:
    """Describe a third-party question set by its entry in the registry and by its questions."""
    lines = [question_set.name, "", f"licence   {question_set.licence}", *wrap_text("terms     ", question_set.terms)]
    source = question_set.source
    lines += [f"address   {source.url}", f"address   sha256 {source.sha256}", f"address   {source.bytes:,} bytes"]
    for defect in question_set.defects or ["none known"]:
        lines += wrap_text("defect    ", defect)
    lines.append(f"where     {describe_location(question_set)}")
    return "\n".join([*lines, "", show_questions(questions)])


def show_questions(questions: Sequence[Question]) -> str:
    """Describe a question set, with the beginning of one of its questions."""
    return "\n".join([*describe_questions(questions), *wrap_text("for example  ", cut_short(questions[0].text))])


def describe_questions(questions: Sequence[Question]) -> Iterator[str]:
    """Yield lines on the number, the rubrics and the lengths of questions."""
    rubrics = dict.fromkeys(rubric.name for question in questions for rubric in question.rubrics)
    ids = len({question.id for question in questions})
    systems = sum(bool(question.system) for question in questions)
    yield f"{ids} questions in {len(questions)} texts, {systems} of them with a system prompt"
    yield f"judged by {', '.join(rubrics)}"
    yield from draw_histogram([len(question.text) for question in questions], "characters")


def show_rows(data: WholeSet, tokens: Sequence[int] | None, model: str) -> str:
    """Describe the rows of a set.

    Args:
        tokens: lengths of the rows by the tokenizer of `model`; None if the user named no model.
    """
    questions, unseen = load_local_questions()
    row_profile = profile_rows(data.conversations, questions, tokens)
    rows = len(data.conversations)
    dropped = f", {data.dropped:,} left out because of a text in their answers" if data.dropped else ""
    skipped = f", {len(data.skipped):,} that can't be used" if data.skipped else ""
    lines = [
        f"rows      {rows:,}{dropped}{skipped}",
        *describe_layouts(data),
        *describe_rows(row_profile, rows, unseen),
    ]
    lines += ["", *draw_histogram(row_profile.characters, "characters")]
    if tokens is not None:
        lines += ["", *draw_histogram(tokens, f"tokens of {model}")]
    lines += ["", "for example"]
    for message in data.conversations[0].messages:
        lines += wrap_text(f"  {message.role:9} ", cut_short(message.content))
    return "\n".join(lines)


def describe_layouts(data: WholeSet) -> Iterator[str]:
    """Yield lines on how the rows are read, and how many of their answers carry no loss."""
    for layout, count in data.layouts.items():
        yield from wrap_text("read as   ", f"{layout}: {count:,} rows")
    if unlearnt := sum(len(row.unlearnt) for row in data.conversations):
        yield f"          {unlearnt:,} answers are not learnt (weight 0)"


def describe_rows(row_profile: Profile, rows: int, unseen: Sequence[str]) -> Iterator[str]:
    """Yield lines on turns, repetitions, faults, keys, e-mail addresses, leakage and OpenAI's rules.

    Args:
        unseen: question sets that are not on this machine.
    """
    facts, findings = row_profile.facts, row_profile.found
    roles = ", ".join(f"{count:,} {role}" for role, count in sorted(row_profile.turns.items()))
    multi_turn = f"{facts.multi_turn_rows:,} rows with several answers"
    yield f"turns     {roles}; {multi_turn}, {row_profile.systems:,} with a system turn"
    yield f"repeated  {format_row_share(facts.duplicate_rows, rows)} exact copies of an earlier row"
    yield f"          {format_row_share(findings.near_duplicates, rows)} nearly repeat one (copies left out)"
    yield f"          {format_row_share(facts.repeated_prompts, rows)} repeat an earlier prompt (copies among them)"
    yield f"encoding  {describe_counts(findings.faults)}"
    yield f"keys      {describe_counts(findings.secrets)}"
    yield f"e-mail    {describe_counts(findings.personal)}"
    yield f"leakage   {describe_leakage(row_profile.leaks)}"
    yield from wrap_text("          ", f"looked at: {', '.join(row_profile.looked_at)}")
    if unseen:
        yield from wrap_text("          ", f"not looked at, since they are not here: {', '.join(unseen)}")
    yield from wrap_text("OpenAI    ", "; ".join(row_profile.openai) or "its fine-tuning takes these rows as they are")


def format_row_share(count: int, rows: int) -> str:
    """Format a number of rows with its percentage."""
    return f"{count:,} rows ({100 * count / rows:.1f} %)"


def describe_leakage(leaks: Mapping[str, LeakCount]) -> str:
    """Name the question sets whose questions are among the prompts, with counts."""
    parts = []
    for name, leak in leaks.items():
        parts.append(f"{name}: {leak.questions} questions ({leak.exact_rows} rows exactly, {leak.near_rows} nearly)")
    return "; ".join(parts) or "no question of these sets"


def cut_short(text: str) -> str:
    """Return the beginning of a third-party text on one line, without control characters that a terminal would obey."""
    line = CONTROL.sub("\ufffd", " ".join(text.split()))
    return line if len(line) <= CUT else f"{line[:CUT]} …"


def wrap_text(label: str, text: str) -> list[str]:
    """Wrap a text to WIDTH columns, with `label` before the first line and the rest indented."""
    indent = " " * len(label)
    return wrap(text, WIDTH, initial_indent=label, subsequent_indent=indent, break_long_words=False) or [""]


def draw_histogram(lengths: Sequence[int], unit: str) -> list[str]:
    """Return lines with a bar for each range of lengths; its edges are round numbers, each about twice the last one."""
    if not lengths:
        return []
    ordered = sorted(lengths)
    last = len(ordered) - 1
    quantiles = ", ".join(f"{name} {ordered[round(last * q)]:,}" for name, q in (("median", 0.5), ("95 %", 0.95)))
    lines = [f"{unit} a row: {ordered[0]:,} to {ordered[-1]:,}, {quantiles}, mean {sum(ordered) / len(ordered):,.0f}"]
    all_edges = [*make_round_edges(ordered[-1]), ordered[-1] + 1]
    edges = [edge for edge, next_edge in pairwise(all_edges) if next_edge > ordered[0]]
    counts = [sum(low <= length < high for length in ordered) for low, high in pairwise(edges)]
    most = max(counts)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        lines.append(f"  {low:>7,} to {high - 1:>7,} {count:>6,} {bar}")
    return lines


def make_round_edges(most: int) -> list[int]:
    """Return 0, 1, 2, 5, 10, 20, … up to the first number above `most`."""
    edges = [0, *(step * 10**power for power in range(len(str(most)) + 1) for step in STEPS)]
    return edges[: bisect_right(edges, most) + 1]


def format_listing() -> str:
    """Format the table of data sets and the table of question sets."""
    rows = [HEAD]
    for name, data_set in read_data_sets().items():
        config = data_set.config
        rows.append((name, format_row_count(config.rows), config.kind.value, config.licence, describe_location(config)))
    questions = [("question set", "ids", *HEAD[2:])]
    # Count the entries without reading their rubrics.
    bundled = {name: len(read_question_entries(QUESTIONS / f"{name}.yaml")) for name in list_bundled_sets()}
    questions += [(name, format_row_count(ids), "questions", "same as em", "in em") for name, ids in bundled.items()]
    for name, question_set in read_known_sets().items():
        row = (
            name,
            format_row_count(question_set.questions),
            "questions",
            question_set.licence,
            describe_location(question_set),
        )
        questions.append(row)
    tables = [format_table(rows, right=[1]), format_table(questions, right=[1])]
    return "\n\n".join([*map("\n".join, tables), PLACES])


def format_row_count(number: int | None) -> str:
    """Format a number of rows; a dash if it is unknown."""
    return "-" if number is None else f"{number:,}"
