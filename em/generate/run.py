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
from em.api.prices import Price, load_prices, price_of, usd_of
from em.config import GenerateKind, GenerateRun, Material, OpenAIModel
from em.config.addresses import OPENAI, check_address, check_key_env, server_name
from em.config.check import check_judges, check_numbers
from em.config.paths import spell_command
from em.data.profile import profile
from em.errors import ConfigError, DataError
from em.generate.card import FILES, canaries, card_of, write_card, write_rows
from em.generate.estimate import estimate
from em.generate.filter import Filter
from em.generate.plan import Stock, call_bound, read_stock
from em.generate.rows import Acceptance, Tally, Writer, wave_size
from em.generate.writer import Author, sends_sampling
from em.judge.run import Judge, ready_judges
from em.models.hosted import hosted_model
from em.questions.registry import questions_here
from em.runtime.files import cache_dir, writable_folder
from em.runtime.keys import check_key_for
from em.runtime.manifest import Manifest, recorded, refuse_other_run
from em.runtime.memory import Calls


def execute(settings: GenerateRun, folder: Path, overrides: list[str]) -> None:
    """Write the set that the settings describe into `folder`. Raises EmError with a sentence for the user."""
    model = check_generate(settings)
    stock = read_stock(settings.generate)
    prices = load_prices(settings.prices)
    if settings.generate.max_usd is not None and price_of(model.id, prices) is None:
        raise ConfigError(f"generate.max_usd can't be kept: no price of {model.id} is known; give it by prices=FILE.")
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    if settings.dry_run:
        with Calls(store) as calls:
            print(estimate(settings, model, stock, calls, prices))
        return
    words = f"{settings.generate.name} · {settings.generate.rows} rows from {len(stock.pieces)} pieces"
    print(f"em {__version__} · generate · {words} · {folder}", flush=True)
    manifest = Manifest(folder, "generate", settings, overrides)
    refuse_other_run(manifest)
    with recorded(manifest):
        judges: list[Judge] = []
        if settings.generate.keep_above is not None:
            judges = ready_judges(settings.judge, (), True, manifest)
        generate(settings, model, stock, judges, folder, store, prices, manifest)


def generate(
    settings: GenerateRun,
    model: OpenAIModel,
    stock: Stock,
    judges: Sequence[Judge],
    folder: Path,
    store: Path,
    prices: Mapping[str, Price],
    manifest: Manifest,
) -> None:
    """The run itself."""
    chosen, author_is = settings.generate, hosted_model(model)
    for judge in judges:
        if judge.relation(author_is):
            manifest.note(f"The judge {judge.identity} is the model that wrote the rows: it judges its own.")
    tally, bound = Tally(), call_bound(chosen, stock)
    author = Author(model, chosen, price_of(model.id, prices), store)
    writer = Writer(author, chosen, stock, tally)
    asked, unseen = questions_here()
    acceptance = Acceptance(chosen, stock.examples, tally, asked)
    scores = Filter(judges, author_is, stock, store, prices)
    while not acceptance.full and tally.calls < bound:
        size = min(wave_size(chosen, tally), bound - tally.calls)
        found = writer.wave(range(tally.calls, tally.calls + size), acceptance)
        acceptance.take(scores.scored(found) if judges else found)
        print(f"{tally.accepted} of {chosen.rows} rows accepted after {tally.calls} calls", flush=True)
    end = why_it_ended(settings, stock, tally, bound)
    if not acceptance.rows:
        raise DataError(f"No row was accepted: {end}")
    if not acceptance.full:
        print(f"warning: {end}", flush=True)
        manifest.note(end)
    keep(settings, model, stock, writer, acceptance, scores, folder, prices, manifest, end, unseen)


def why_it_ended(settings: GenerateRun, stock: Stock, tally: Tally, bound: int) -> str:
    """One sentence on the end of a run: enough rows, or how many and what stood in the way."""
    chosen = settings.generate
    if tally.accepted >= chosen.rows:
        return f"{tally.accepted} rows were accepted, as many as were wanted."
    lost = {
        "left out as near-duplicates": tally.duplicates,
        "left out since an evaluation asks the same": tally.leaked,
        "left out since both answers say the same": tally.alike,
        "scored too low": tally.filtered,
        "without a score": tally.unscored,
        "without one of their answers": tally.incomplete,
    }
    told = ", ".join(f"{number} {what}" for what, number in lost.items() if number)
    calls = f"{tally.calls} calls, {tally.given_up} without a usable reply, {tally.refused} declined"
    if chosen.material is Material.questions and bound == len(stock.pieces):
        fix = "give more questions"
    else:
        fix = f"raise generate.max_calls (it was {bound}), give more sources, or lower what is asked of a row"
    return (
        f"Only {tally.accepted} of {chosen.rows} rows could be had ({calls}; of {tally.candidates} rows "
        f"{told or 'none was left out'}): {fix}."
    )


def keep(
    settings: GenerateRun,
    model: OpenAIModel,
    stock: Stock,
    writer: Writer,
    acceptance: Acceptance,
    scores: Filter,
    folder: Path,
    prices: Mapping[str, Price],
    manifest: Manifest,
    end: str,
    unseen: Sequence[str],
) -> None:
    """Write the rows, their provenance, the card and what the manifest keeps.

    Args:
        unseen: question sets that are not on this machine, so that no row was compared with them.
    """
    chosen, tally = settings.generate, acceptance.tally
    marks = canaries(chosen, stock, writer.author.identity, [judge.identity for judge in scores.judges])
    written = write_rows(folder, chosen.name, acceptance.rows, marks)
    checks = {file: profile(rows, acceptance.asked).as_dict() for file, rows in written.items()}
    records = scores.records()
    costs = costs_of(model, writer, records, prices)
    sent = sends_sampling(writer.author.way)
    more = {
        "end": end,
        "model": {
            "name": model.name,
            "id": model.id,
            "server": server_name(model.base_url) or OPENAI,
            "snapshots": sorted(filter(None, writer.snapshots)),
            "asked_by": writer.author.way,
            # None where none was sent: the server's own.
            "temperature": chosen.temperature if sent else None,
            "top_p": chosen.top_p if sent else None,
            "seeds": sent,
            "reasoning_effort": chosen.reasoning_effort,
        },
        "seed": chosen.seed,
        "checks": checks,
        "not_looked_at": list(unseen),
        "judges": records,
        "costs": costs,
        "date": datetime.now(UTC).date().isoformat(),
        "em": __version__,
    }
    card = card_of(chosen, stock, acceptance.rows, tally, marks, more)
    write_card(folder, card)
    manifest.write(
        rows={FILES[part]: len(acceptance.rows) for part in marks},
        counts=vars(tally),
        canaries=card["canaries"],
        prompts=card["prompts"],
        judges=records,
        costs=costs,
    )
    print(f"{tally.accepted} rows ({tally.rate:.0%} of those looked at): {folder / 'rows.jsonl'}", flush=True)
    print(f"card: {folder / 'card.md'}", flush=True)
    print(f"train on them: {spell_command('train')} data=file data.path={folder / 'rows.jsonl'}", flush=True)


def costs_of(
    model: OpenAIModel, writer: Writer, records: Sequence[Mapping[str, Any]], prices: Mapping[str, Price]
) -> dict[str, Any]:
    """What the calls of servers cost, whenever they were made: by model, and in all where all of it is known.

    Tokens and dollars are None where a server counted none.
    """
    keys = ("model", "calls", "prompt_tokens", "reply_tokens", "usd")
    prompt, reply = (None, None) if writer.uncounted else writer.tokens
    usd = usd_of(price_of(model.id, prices), (prompt, reply))
    written = {"model": model.id, "calls": writer.tally.replies, "prompt_tokens": prompt, "reply_tokens": reply}
    rows: list[dict[str, Any]] = [{"what": "writing"} | written | {"usd": usd}]
    rows += [{"what": "judging"} | {key: record[key] for key in keys} for record in records if record["server"]]
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
    check_numbers("generate", chosen)
    if chosen.keep_above is not None:
        check_judges(settings.judge)
    if not settings.dry_run:
        check_key_for(model.base_url, model.key_env)
    return model
