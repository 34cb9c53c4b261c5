"""List, show, fetch and verify data sets and question sets:

em data list                        rows, kind, licence and place of each set
em data show NAME [--model ID]      address, terms, defects, and a profile of its rows
em data show FILE                   the same for a file of yours
em data show OWNER/NAME [--split …] the same for a data set of the Hugging Face hub
em data fetch NAME … | --all        download now (into the cache)
em data fetch --all --to DIR        fill a mirror folder, for EM_MIRROR=DIR on another machine
em data convert FILE OUT            write any readable file or set as clean `messages`, one JSON object a line
em data verify [NAME …]             fetch, check the checksum, row count and every row; exit code 1 if one is wrong
em data verify --profile            and profile the rows of each set (a minute or two, once)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from em.cli.show import format_listing
from em.cli.tool import handle_errors
from em.config import FileData, HubData, OnBadRow
from em.data.fetch import Source
from em.data.registry import DataSet, is_named
from em.errors import ConfigError, EmError, OutputError
from em.questions.registry import find_set, find_set_source, list_sources
from em.questions.sets import KnownSet

SKIP = "--on-bad-row"


@handle_errors
def main(words: Sequence[str] | None = None) -> int:
    """Run the command in `words`; return the exit code."""
    arguments = build_parser().parse_args(words)
    match arguments.command:
        case "list":
            print(format_listing())
        case "show":
            print(show_set(arguments))
        case "fetch":
            fetch_sets(choose_files(arguments.names, arguments.all), arguments.to)
        case "convert":
            print(convert_set(arguments))
        case _:
            from em.cli.verify import verify_sets

            return verify_sets(arguments.names, arguments.profile)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top_level = argparse.ArgumentParser(
        prog="em data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top_level.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list all sets")
    show_ = commands.add_parser("show", help="show one set in full")
    show_.add_argument("name", help="a set, a file of yours, or a data set of the Hugging Face hub")
    show_.add_argument("--model", metavar="ID", help="count tokens too: embedded:smollm2, a hub id or a folder")
    show_.add_argument("--path", metavar="FILE", help="your copy of a set that em may not fetch")
    show_.add_argument("--subset", metavar="NAME", help="configuration of a hub data set")
    show_.add_argument("--split", metavar="NAME", default="train", help="split of a hub data set (default: train)")
    show_.add_argument("--revision", metavar="COMMIT", help="commit of a hub data set (default: the newest)")
    fetch_ = commands.add_parser("fetch", help="download sets")
    fetch_.add_argument("names", nargs="*", metavar="NAME")
    fetch_.add_argument("--all", action="store_true", help="every third-party file that em knows")
    fetch_.add_argument("--to", type=Path, metavar="DIR", help="into a mirror folder, for EM_MIRROR")
    convert_ = commands.add_parser("convert", help="write rows as clean messages")
    convert_.add_argument("name", metavar="FILE", help="a file of yours, a set, or a data set of the Hugging Face hub")
    convert_.add_argument("out", metavar="OUT", type=Path, help="a new .jsonl file")
    convert_.add_argument("--ignore", metavar="KEY", action="append", default=[], help="pass over this key; repeatable")
    on_bad_row = [choice.value for choice in OnBadRow]
    convert_.add_argument(SKIP, choices=on_bad_row, default="error", help="skip: leave out rows that can't be used")
    verify_ = commands.add_parser("verify", help="check sets; all sets if none is named")
    verify_.add_argument("names", nargs="*", metavar="NAME")
    verify_.add_argument("--profile", action="store_true", help="profile the rows, as show does")
    return top_level


def show_set(arguments: argparse.Namespace) -> str:
    """Describe a set in full."""
    name, model, path = arguments.name, arguments.model, arguments.path
    from em.cli.show import show_facts, show_question_set, show_questions, show_rows
    from em.data.rows import read_all_rows
    from em.questions.sets import load_set

    data_set = find_set(name)
    if isinstance(data_set, KnownSet):
        return show_question_set(data_set, load_set(name))
    if isinstance(data_set, str):
        return f"{name}, written for em\n\n{show_questions(load_set(name))}"
    config = data_set.config
    match config:
        case FileData() if path:
            config = replace(config, path=path)
        case _ if path:
            raise ConfigError(f"--path is for sets that em may not fetch: {name} is not one of them.")
        case HubData():
            config = replace(config, subset=arguments.subset, split=arguments.split, revision=arguments.revision)
    facts = show_facts(DataSet(config, data_set.about))
    if not is_named(config):
        return f"{facts}\n\nTo see its rows, name your copy: --path FILE."
    rows = read_all_rows(replace(config, on_bad_row=OnBadRow.skip))
    tokens = None
    if model:
        from em.models.tokens import count_tokens

        tokens = count_tokens(rows.conversations, model)
    return f"{facts}\n\n{show_rows(rows, tokens, model or '')}"


def convert_set(arguments: argparse.Namespace) -> str:
    """Write the rows of a set as `messages` to a new file; return how they were read."""
    from em.data.layouts import RowReader
    from em.data.openai_rules import encode_file_lines
    from em.data.rows import read_all_rows
    from em.runtime.files import make_writable_folder, write_atomic

    out: Path = arguments.out.expanduser()
    if out.suffix != ".jsonl":
        raise ConfigError(f"{out} must end with .jsonl, since em writes one JSON object a line.")
    if out.exists():
        raise OutputError(f"{out} exists already: name a new file.")
    data_set = find_set(arguments.name)
    if not isinstance(data_set, DataSet):
        raise ConfigError(f"{arguments.name} is a set of questions: em data convert reads training rows.")
    config = replace(data_set.config, on_bad_row=OnBadRow(arguments.on_bad_row))
    rows = read_all_rows(config, setting=SKIP, reader=RowReader(frozenset(arguments.ignore)))
    make_writable_folder(out.parent, "OUT")
    write_atomic(out, b"".join(encode_file_lines(rows.conversations)))
    layouts = "; ".join(f"{layout}: {count:,}" for layout, count in rows.layouts.items())
    return f"{len(rows.conversations):,} rows in {out} (read as {layouts})"


def choose_files(names: list[str], everything: bool) -> dict[str, Source]:
    """Return the files to fetch, keyed by set. Raises ConfigError if no set is named."""
    if everything:
        return list_sources()
    if not names:
        raise ConfigError("fetch what? Name sets, or write --all (em data list prints the names).")
    files = {}
    for name in names:
        match find_set(name):
            case DataSet(config=config):
                source = find_set_source(config)
            case KnownSet() as question_set:
                source = find_set_source(question_set)
            case _:
                source = None
        if source is None:
            print(f"{name} has nothing to fetch: it comes with em, is on the hub, or is read from your own copy.")
        else:
            files[name] = source
    return files


def fetch_sets(files: Mapping[str, Source], folder: Path | None) -> None:
    """Download files into the cache, or into the mirror `folder`; skip complete files."""
    from tqdm import tqdm

    from em.data.fetch import fetch_file, fetch_to_folder
    from em.runtime.files import make_writable_folder

    if folder is not None:
        folder = folder.expanduser()
        make_writable_folder(folder, "--to")
    fresh = 0
    try:
        with tqdm(total=sum(file.bytes or 0 for file in files.values()), unit="B", unit_scale=True) as bar:
            for name, file in files.items():
                bar.set_description(name)
                if folder is None:
                    print(f"{name}: {fetch_file(file)}")
                else:
                    fresh += fetch_to_folder(folder, file)
                bar.update(file.bytes or 0)
    except OSError as error:
        if isinstance(error, EmError):
            raise
        place = error.filename or folder
        raise OutputError(f"{place} can't be written ({error.strerror}): make room there.") from error
    print(*list_terms(files), sep="\n")
    if folder is not None:
        print(f"{len(files)} files in {folder}, {fresh} of them new: use it by EM_MIRROR={folder}")


def list_terms(names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each licence and its terms, with the sets to which they apply."""
    by_terms: dict[tuple[str, str], list[str]] = {}
    for name in names:
        each = find_set(name)
        if isinstance(each, str):  # written for em, under the licence of em
            continue
        licensed = each.config if isinstance(each, DataSet) else each
        by_terms.setdefault((licensed.licence, " ".join(licensed.terms.split())), []).append(name)
    for (licence, terms), sets in by_terms.items():
        yield f"Terms of {', '.join(sets)} (licence: {licence or 'none stated'}): {terms or 'none stated'}"
