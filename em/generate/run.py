"""A generated set from accepted settings to its card, in a straight line: read, write in waves, score, accept, keep.

What comes before `recorded` is cheap and checks the whole request; every call is remembered, so the same command goes
on where it was stopped and ends with the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em import __version__
from em.api.prices import load_prices, price_of, usd_of
from em.config import GenerateConfig, GenerateKind, GenerateRun, Material, OpenAIModel
from em.config.addresses import OPENAI, check_address, check_key_env, server_name
from em.config.check import check_judges, check_numbers
from em.config.paths import spell_command
from em.data.profile import profile
from em.errors import ConfigError, DataError
from em.generate.card import canaries, card_of, write_card, write_rows
from em.generate.estimate import estimate
from em.generate.filter import Filter
from em.generate.plan import Stock, read_stock
from em.generate.rows import Acceptance, Tally, Writer, wave_size
from em.generate.writer import Author, sends_sampling
from em.judge.run import Judge, ready_judges
from em.models.hosted import hosted_model
from em.questions.registry import questions_here
from em.runtime.files import cache_dir, writable_folder
from em.runtime.keys import check_key_for
from em.runtime.manifest import Manifest, recorded, refuse_other_run


def execute(settings: GenerateRun, folder: Path, overrides: list[str]) -> None:
    """Write the set that the settings describe into `folder`. Raises EmError with a sentence for the user."""
    chosen, model = settings.generate, check_generate(settings)
    stock, prices = read_stock(chosen), load_prices(settings.prices)
    price = price_of(model.id, prices)
    if chosen.max_usd is not None and price is None:
        raise ConfigError(f"generate.max_usd can't be kept: no price of {model.id} is known; give it by prices=FILE.")
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    author = Author(model, chosen, price, store)
    if settings.dry_run:
        print(estimate(author, stock, settings.judge, prices))
        return
    words = f"{chosen.name} · {chosen.rows} rows from {len(stock.pieces)} pieces"
    print(f"em {__version__} · generate · {words} · {folder}", flush=True)
    manifest = Manifest(folder, "generate", settings, overrides)
    refuse_other_run(manifest)
    with recorded(manifest):
        judges: list[Judge] = []
        if chosen.keep_above is not None:
            judges = ready_judges(settings.judge, (), True, manifest)
        generate(author, stock, Filter(judges, hosted_model(model), stock, store, prices), manifest)


def generate(author: Author, stock: Stock, judging: Filter, manifest: Manifest) -> None:
    """Write rows in waves until there are enough of them, and keep them."""
    for judge in judging.judges:
        if judge.relation(judging.author):
            manifest.note(f"The judge {judge.identity} is the model that wrote the rows: it judges its own.")
    tally, most = Tally(), stock.most_calls
    writer, acceptance = Writer(author, stock, tally), Acceptance(stock, tally, *questions_here())
    while not acceptance.full and tally.calls < most:
        size = min(wave_size(stock, tally), most - tally.calls)
        candidates = writer.begin_rows(range(tally.calls, tally.calls + size))
        candidates = writer.answer_twins(acceptance.drop_repeats(candidates))
        acceptance.take(judging.score(candidates))
        print(f"{tally.accepted} of {stock.settings.rows} rows accepted after {tally.calls} calls", flush=True)
    end = explain_end(stock, tally)
    if not acceptance.rows:
        raise DataError(f"No row was accepted: {end}")
    if not acceptance.full:
        print(f"warning: {end}", flush=True)
        manifest.note(end)
    keep(writer, acceptance, judging, manifest, end)


def explain_end(stock: Stock, tally: Tally) -> str:
    """Say in one sentence why a run ended: enough rows, or how many and what stood in the way."""
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


def keep(writer: Writer, acceptance: Acceptance, judging: Filter, manifest: Manifest, end: str) -> None:
    """Write the rows, their provenance, the card and what the manifest keeps."""
    author, stock, tally, folder = writer.author, writer.stock, writer.tally, manifest.path.parent
    marks = canaries(stock, author.identity, [judge.identity for judge in judging.judges])
    conversations = write_rows(folder, stock.settings.name, acceptance.rows, marks)
    judges = judging.records()
    card = card_of(stock, acceptance.rows, tally, marks) | {
        "end": end,
        "model": describe_author(writer),
        "seed": stock.settings.seed,
        "checks": {file: profile(rows, acceptance.questions).as_dict() for file, rows in conversations.items()},
        "not_looked_at": acceptance.unseen,
        "judges": judges,
        "costs": add_costs(writer, judges),
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
    """Say which model wrote, and how it was asked; None where nothing was sent: the server's own."""
    author, settings = writer.author, writer.stock.settings
    sent = sends_sampling(author.way)
    return {
        "name": author.model.name,
        "id": author.model.id,
        "server": server_name(author.model.base_url) or OPENAI,
        "snapshots": sorted(filter(None, writer.snapshots)),
        "asked_by": author.way,
        "temperature": settings.temperature if sent else None,
        "top_p": settings.top_p if sent else None,
        "seeds": sent,
        "reasoning_effort": settings.reasoning_effort,
    }


def add_costs(writer: Writer, judges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what the calls of servers cost, whenever they were made: by model, and in all where all of it is known.

    Tokens and dollars are None where a server counted none.
    """
    model, price = writer.author.model.id, writer.author.price
    columns = [[reply[name] for reply in writer.replies] for name in ("prompt_tokens", "reply_tokens")]
    counted = not any(None in column for column in columns)
    prompt, reply = (sum(column) if counted else None for column in columns)
    writing: dict[str, Any] = {
        "model": model,
        "calls": len(writer.replies),
        "prompt_tokens": prompt,
        "reply_tokens": reply,
    }
    writing["usd"] = usd_of(price, (prompt, reply))
    rows = [{"what": "writing"} | writing]
    rows += [{"what": "judging"} | {key: record[key] for key in writing} for record in judges if record["server"]]
    known = [row["usd"] for row in rows if row["usd"] is not None]
    return {"total_usd": round(sum(known), 6) if len(known) == len(rows) else None, "by": rows}


def check_generate(settings: GenerateRun) -> OpenAIModel:
    """Raise ConfigError for the first setting that can't be; returns the model, which is one behind a server."""
    model, chosen = settings.model, settings.generate
    if not isinstance(model, OpenAIModel):
        raise ConfigError(
            f"model={model.name} is not behind a server, and generate.py asks servers: choose model=luna, or serve it "
            f"and write model=open model.id={model.id} model.base_url=http://HOST:8000/v1."
        )
    check_address("model.base_url", model.base_url)
    check_key_env("model.key_env", model.key_env)
    if model.name == "open" and not server_name(model.base_url):
        raise ConfigError("model=open needs a server: name it by model.base_url=http://HOST:8000/v1.")
    if chosen.kind is GenerateKind.qa and chosen.material is Material.questions:
        raise ConfigError(
            "generate.material=questions goes with generate.kind=twins: pairs (qa) are written from texts."
        )
    check_set(chosen)
    if chosen.keep_above is not None:
        check_judges("judge", settings.judge)
    if not settings.dry_run:
        check_key_for(model.base_url, model.key_env)
    return model


def check_set(chosen: GenerateConfig) -> None:
    """Refuse numbers of the set that are out of their bounds."""
    names = ("rows", "per_call", "max_new_tokens", "attempts", "max_calls", "max_usd", "connections", "timeout")
    bounds = {
        "passage": (200, float("inf")),
        "shots": (0, float("inf")),
        "variance_probability": (0, 1),
        "temperature": (0, 2),
        "top_p": (1e-9, 1),
        "seed": (0, 2**63 - 1),
        "similar": (0.05, 1),
        "keep_above": (0, 99.999),
    }
    positive = {f"generate.{name}": vars(chosen)[name] for name in names}
    check_numbers(positive, {f"generate.{name}": (vars(chosen)[name], *each) for name, each in bounds.items()})
