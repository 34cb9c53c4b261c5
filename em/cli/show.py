"""All that is known of one set, as text: where it is from, on which terms, its faults, and what its rows are like.

`listing` prints the registry as a table: what there is, how much, by which licence, and whether it is here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import wrap

from em.config import BundledData, DataConfig, FileData, HubData, UpstreamData
from em.data.findings import CONTROL, by_kind
from em.data.leakage import LeakCount
from em.data.profile import Profile, profile
from em.data.registry import DataSet, data_sets
from em.data.rows import WholeSet
from em.questions.formats import read_entries
from em.questions.registry import questions_here, where_is
from em.questions.sets import BUNDLED as QUESTIONS
from em.questions.sets import KnownSet, bundled_sets, known_sets
from em.runtime.records import format_table
from em.types import Question

WIDTH = 100
CUT = 400
STEPS = (1, 2, 5)
BAR = 40
PLACES = "where: in em, cache, mirror (EM_MIRROR), to fetch (done at first use), yours (data=NAME data.path=FILE)."
HEAD = ("name", "rows", "kind", "licence", "where")


def show_facts(found: DataSet) -> str:
    """What the registry says of a set of rows."""
    config = found.config
    lines = [config.name, *wrapped("", found.about), "", f"kind      {config.kind.value}"]
    lines += wrapped("licence   ", config.licence or "none stated")
    lines += wrapped("terms     ", config.terms or "none stated")
    lines += [f"address   {address}" for address in addresses(config)]
    if config.drop_answers_with:
        lines.append(f"left out  rows whose answers carry {' or '.join(map(repr, config.drop_answers_with))}")
    match config:
        case UpstreamData(skip_lines=skipped) if skipped:
            lines.append(f"left out  lines {', '.join(map(str, skipped))}")
    for defect in config.defects or ["none known"]:
        lines += wrapped("defect    ", defect)
    lines.append(f"where     {where_is(config)}")
    return "\n".join(lines)


def addresses(config: DataConfig) -> Iterator[str]:
    """Where a set is from, its checksum, size and canary."""
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


def show_known(known: KnownSet, questions: Sequence[Question]) -> str:
    """What the registry says of a question set of others, and what its file holds."""
    lines = [known.name, "", f"licence   {known.licence}", *wrapped("terms     ", known.terms)]
    source = known.source
    lines += [f"address   {source.url}", f"address   sha256 {source.sha256}", f"address   {source.bytes:,} bytes"]
    lines += [line for defect in known.defects or ["none known"] for line in wrapped("defect    ", defect)]
    lines.append(f"where     {where_is(known)}")
    return "\n".join([*lines, "", show_questions(questions)])


def show_questions(questions: Sequence[Question]) -> str:
    """The facts of a question set, and one of its questions cut short."""
    return "\n".join([*questions_like(questions), *wrapped("for example  ", cut_short(questions[0].text))])


def questions_like(questions: Sequence[Question]) -> Iterator[str]:
    """Lines on how many questions a set has, how long they are, and by what they are judged."""
    rubrics = dict.fromkeys(rubric.name for question in questions for rubric in question.rubrics)
    ids = len({question.id for question in questions})
    systems = sum(bool(question.system) for question in questions)
    yield f"{ids} questions in {len(questions)} texts, {systems} of them with a system prompt"
    yield f"judged by {', '.join(rubrics)}"
    yield from histogram([len(question.text) for question in questions], "characters")


def show_rows(whole: WholeSet, tokens: Sequence[int] | None, model: str) -> str:
    """What the rows of a set are like.

    Args:
        tokens: their lengths by the tokenizer of `model`, None where it wasn't asked for.
    """
    questions, unseen = questions_here()
    facts = profile(whole.conversations, questions, tokens)
    rows = len(whole.conversations)
    dropped = f", {whole.dropped:,} left out for what their answers carry" if whole.dropped else ""
    skipped = f", {len(whole.skipped):,} that can't be used" if whole.skipped else ""
    lines = [f"rows      {rows:,}{dropped}{skipped}", *rows_like(facts, rows, unseen)]
    lines += ["", *histogram(facts.characters, "characters")]
    if tokens is not None:
        lines += ["", *histogram(tokens, f"tokens of {model}")]
    lines += ["", "for example"]
    for message in whole.conversations[0].messages:
        lines += wrapped(f"  {message.role:9} ", cut_short(message.content))
    return "\n".join(lines)


def rows_like(facts: Profile, rows: int, unseen: Sequence[str]) -> Iterator[str]:
    """Lines on turns, repetitions, faults, keys, e-mail addresses, leakage and OpenAI's rules.

    Args:
        unseen: question sets that are not on this machine.
    """
    roles = ", ".join(f"{count:,} {role}" for role, count in sorted(facts.turns.items()))
    several = f"{facts.facts.multi_turn_rows:,} rows of several answers"
    yield f"turns     {roles}; {several}, {facts.systems:,} with a system turn"
    yield f"repeated  {share(facts.facts.duplicate_rows, rows)} exact copies of an earlier row"
    yield f"          {share(facts.found.near_duplicates, rows)} nearly repeat one (copies left out)"
    yield f"          {share(facts.facts.repeated_prompts, rows)} repeat an earlier prompt (copies among them)"
    yield f"encoding  {by_kind(facts.found.faults)}"
    yield f"keys      {by_kind(facts.found.secrets)}"
    yield f"e-mail    {by_kind(facts.found.personal)}"
    yield f"leakage   {leakage(facts.leaks)}"
    yield from wrapped("          ", f"looked at: {', '.join(facts.looked_at)}")
    if unseen:
        yield from wrapped("          ", f"not looked at, since they are not here: {', '.join(unseen)}")
    yield from wrapped("OpenAI    ", "; ".join(facts.openai) or "its fine-tuning takes these rows as they are")


def share(count: int, rows: int) -> str:
    """A number of rows and its share."""
    return f"{count:,} rows ({100 * count / rows:.1f} %)"


def leakage(leaks: Mapping[str, LeakCount]) -> str:
    """Which question sets the prompts hold questions of."""
    return (
        "; ".join(
            f"{name}: {leak.questions} questions ({leak.exact_rows} rows exactly, {leak.near_rows} nearly)"
            for name, leak in leaks.items()
        )
        or "no question of the sets that were looked at"
    )


def cut_short(text: str) -> str:
    """The beginning of a text that others wrote, on one line and without what could command a terminal."""
    line = CONTROL.sub("\ufffd", " ".join(text.split()))
    return line if len(line) <= CUT else f"{line[:CUT]} …"


def wrapped(label: str, text: str) -> list[str]:
    """A text in lines of a readable width, its first one behind the label."""
    indent = " " * len(label)
    return wrap(text, WIDTH, initial_indent=label, subsequent_indent=indent, break_long_words=False) or [""]


def histogram(lengths: Sequence[int], unit: str) -> list[str]:
    """Lines with a bar for each range of lengths; the ranges are round numbers, each about twice the one before."""
    if not lengths:
        return []
    ordered = sorted(lengths)
    last = len(ordered) - 1
    quantiles = ", ".join(f"{name} {ordered[round(last * q)]:,}" for name, q in (("median", 0.5), ("95 %", 0.95)))
    lines = [f"{unit} a row: {ordered[0]:,} to {ordered[-1]:,}, {quantiles}, mean {sum(ordered) / len(ordered):,.0f}"]
    every = round_edges(ordered[-1])
    edges = [edge for edge, above in pairwise([*every, ordered[-1] + 1]) if above > ordered[0]]
    counts = [sum(low <= length < high for length in ordered) for low, high in pairwise(edges)]
    most = max(counts)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        lines.append(f"  {low:>7,} to {high - 1:>7,} {count:>6,} {bar}")
    return lines


def round_edges(most: int) -> list[int]:
    """0, then 1, 2, 5, 10, 20, … until above `most`."""
    edges = [0, *(step * 10**power for power in range(len(str(most)) + 1) for step in STEPS)]
    return edges[: bisect_right(edges, most) + 1]


def listing() -> str:
    """Both tables: sets of rows, and question sets."""
    rows = [HEAD]
    rows += [
        (name, count(each.config.rows), each.config.kind.value, each.config.licence, where_is(each.config))
        for name, each in data_sets().items()
    ]
    questions = [("question set", "ids", *HEAD[2:])]
    bundled = {name: len(read_entries(QUESTIONS / f"{name}.yaml")) for name in bundled_sets()}  # rubrics aren't read
    questions += [(name, count(ids), "questions", "same as em", "in em") for name, ids in bundled.items()]
    questions += [
        (name, count(known.questions), "questions", known.licence, where_is(known))
        for name, known in known_sets().items()
    ]
    tables = [format_table(rows, right=[1]), format_table(questions, right=[1])]
    return "\n\n".join([*map("\n".join, tables), PLACES])


def count(number: int | None) -> str:
    """A number of rows, a dash where it isn't known."""
    return "-" if number is None else f"{number:,}"
