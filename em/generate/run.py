"""Generate a set from accepted settings: read sources, write in waves, score, accept, save rows and card.

The steps before the first manifest are cheap and check the whole request. Every call is cached, so the same command
resumes an interrupted run and ends with the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em import __version__
from em.api.costs import CallCost, read_judge_cost, record_costs
from em.api.identities import note_changed_models, settle_identities
from em.api.parameters import note_changes
from em.api.prices import compute_usd
from em.api.resources import open_resources
from em.config import DistilledJudge, GenerateKind, GenerateRun, Material, OpenAIModel
from em.config.addresses import OPENAI, find_server_name
from em.config.check import check_author, check_judges, check_numbers
from em.config.paths import spell_command
from em.data.profile import profile_rows
from em.errors import ConfigError, DataError
from em.generate.card import build_card, make_canaries, write_card, write_generated_rows
from em.generate.estimate import estimate
from em.generate.filter import Filter
from em.generate.plan import Stock, read_stock
from em.generate.rows import Acceptance, Tally, Writer, plan_wave_size
from em.generate.writer import Author, sends_sampling
from em.judge.run import Judge, prepare_judges
from em.models.hosted import make_hosted_model
from em.questions.registry import load_local_questions
from em.runtime.keys import require_key
from em.runtime.manifest import ManifestWriter, record_run, refuse_other_run


def execute(settings: GenerateRun, folder: Path, overrides: list[str]) -> None:
    """Write the set that the settings describe into `folder`. Raise EmError with a sentence for the user."""
    chosen, model = settings.generate, check_generate(settings)
    stock = read_stock(chosen)
    resources = open_resources(settings, ("generate.max_usd", model.id, chosen.max_usd))
    memory, ask = resources.memory, not settings.dry_run
    [model], notes = settle_identities([model], memory, ask)
    judges, more = settle_identities(resources.judges, memory, ask)
    resources = replace(resources, judges=tuple(judges))
    author = Author(model, chosen, resources.prices.find_price(model.id), resources.memory)
    if settings.dry_run:
        print(estimate(author, stock, resources))
        return
    words = f"{chosen.name} · {chosen.rows} rows from {len(stock.pieces)} pieces"
    print(f"em {__version__} · generate · {words} · {folder}", flush=True)
    manifest = ManifestWriter(folder, "generate", settings, overrides)
    refuse_other_run(manifest)
    with record_run(manifest):
        note_changed_models([*notes, *more], manifest)
        prepared: list[Judge] = []
        if chosen.keep_above is not None:
            prepared = prepare_judges(resources.judges, (), True, manifest)
        generate(author, stock, Filter(prepared, make_hosted_model(model), stock, resources), manifest)


def generate(author: Author, stock: Stock, judging: Filter, manifest: ManifestWriter) -> None:
    """Write rows in waves until there are enough, then save them."""
    for judge in judging.judges:
        if judge.find_relation(judging.author):
            manifest.note(f"The judge {judge.identity} is the model that wrote the rows: it judges its own.")
    tally, most = Tally(), stock.most_calls
    writer, acceptance = Writer(author, stock, tally), Acceptance(stock, tally, *load_local_questions())
    while not acceptance.full and tally.calls < most:
        size = min(plan_wave_size(stock, tally), most - tally.calls)
        candidates = writer.begin_rows(range(tally.calls, tally.calls + size))
        candidates = writer.answer_twins(acceptance.drop_repeats(candidates))
        acceptance.accept_candidates(judging.score(candidates))
        print(f"{tally.accepted} of {stock.settings.rows} rows accepted after {tally.calls} calls", flush=True)
    end = explain_end(stock, tally)
    if not acceptance.rows:
        raise DataError(f"No row was accepted: {end}")
    if not acceptance.full:
        print(f"warning: {end}", flush=True)
        manifest.note(end)
    write_outputs(writer, acceptance, judging, manifest, end)


def explain_end(stock: Stock, tally: Tally) -> str:
    """Explain in one sentence why a run ended: enough rows, or too few and the reasons."""
    settings, most = stock.settings, stock.most_calls
    if tally.accepted >= settings.rows:
        return f"{tally.accepted} rows were accepted, as many as were wanted."
    lost = {
        "left out as near-duplicates": tally.duplicates,
        "left out since an evaluation asks the same": tally.leaked,
        "left out since both answers say the same": tally.alike,
        "scored too low": tally.filtered,
        "without a score": tally.unscored,
        "without one of their answers": tally.incomplete,
    }
    reasons = ", ".join(f"{number} {what}" for what, number in lost.items() if number)
    calls = f"{tally.calls} calls, {tally.given_up} without a usable reply, {tally.refused} declined"
    fix = f"raise generate.max_calls (it was {most}), give more sources, or lower what is asked of a row"
    if settings.material is Material.questions and most == len(stock.pieces):
        fix = "give more questions"
    return (
        f"Only {tally.accepted} of {settings.rows} rows could be had ({calls}; of {tally.candidates} rows "
        f"{reasons or 'none was left out'}): {fix}."
    )


def write_outputs(writer: Writer, acceptance: Acceptance, judging: Filter, manifest: ManifestWriter, end: str) -> None:
    """Write the rows, their provenance, the card, and the results in the manifest."""
    note_changes(writer.author.model.base_url, [writer.author.model.id], writer.author.memory, manifest)
    author, stock, tally, folder = writer.author, writer.stock, writer.tally, manifest.path.parent
    marks = make_canaries(stock, author.identity, [judge.identity for judge in judging.judges])
    conversations = write_generated_rows(folder, stock.settings.name, acceptance.rows, marks)
    judges = judging.list_judge_records()
    card = build_card(stock, acceptance.rows, tally, marks) | {
        "end": end,
        "model": describe_author(writer),
        "seed": stock.settings.seed,
        "checks": {file: profile_rows(rows, acceptance.questions).as_dict() for file, rows in conversations.items()},
        "not_looked_at": acceptance.unseen,
        "judges": judges,
        "costs": record_costs(list_costs(writer, judges)),
        "date": datetime.now(UTC).date().isoformat(),
        "em": __version__,
    }
    write_card(folder, card)
    manifest.write(
        rows=dict.fromkeys(marks, len(acceptance.rows)),
        counts=vars(tally),
        **{name: card[name] for name in ("canaries", "prompts", "judges", "costs")},
    )
    print(f"{tally.accepted} rows ({tally.rate:.0%} of those looked at): {folder / 'rows.jsonl'}", flush=True)
    print(f"card: {folder / 'card.md'}", flush=True)
    print(f"train on them: {spell_command('train')} data=file data.path={folder / 'rows.jsonl'}", flush=True)


def describe_author(writer: Writer) -> dict[str, Any]:
    """Describe the author model and its sampling settings; None means that the server's default applied."""
    author, settings = writer.author, writer.stock.settings
    sent = sends_sampling(author.way)
    return {
        "name": author.model.name,
        "id": author.model.id,
        "server": find_server_name(author.model.base_url) or OPENAI,
        "snapshots": sorted(filter(None, writer.snapshots)),
        "asked_by": author.way,
        "temperature": settings.temperature if sent else None,
        "top_p": settings.top_p if sent else None,
        "seeds": sent,
        "reasoning_effort": settings.reasoning_effort,
    }


def list_costs(writer: Writer, judges: Sequence[Mapping[str, Any]]) -> list[CallCost]:
    """List the costs of calls by model; tokens and dollars are None if a server did not count tokens."""
    author = writer.author
    columns = [[reply[name] for reply in writer.replies] for name in ("prompt_tokens", "reply_tokens")]
    counted = not any(None in column for column in columns)
    prompt, reply = (sum(column) if counted else None for column in columns)
    usd = compute_usd(author.price, (prompt, reply))
    judging = [read_judge_cost(record) for record in judges if record["server"]]
    return [CallCost("writing", author.model.id, len(writer.replies), prompt, reply, usd), *judging]


def check_generate(settings: GenerateRun) -> OpenAIModel:
    """Check the settings and return the author model. Raise ConfigError for the first invalid setting."""
    model, chosen = check_author(settings.model), settings.generate
    if chosen.kind is GenerateKind.qa and chosen.material is Material.questions:
        raise ConfigError(
            "generate.material=questions goes with generate.kind=twins; pairs (qa) are written from texts: change one."
        )
    check_numbers("generate", chosen)
    if chosen.keep_above is not None:
        check_judges(settings.judge)
        if any(isinstance(judge, DistilledJudge) for judge in settings.judge.list_members()):
            raise ConfigError(
                "judge=distilled scores answers by two rubrics and can't rate rows to keep: choose another judge, or "
                "generate.keep_above=null."
            )
    if not settings.dry_run:
        require_key(model.base_url, model.key_env)
    return model
