"""The sets that em knows, from the command line:

em data list                        rows, kind, licence, and where each set is
em data show NAME [--model ID]      address, terms, defects, and what its rows are like
em data show FILE                   the same of a file of yours
em data show OWNER/NAME [--split …] the same of a data set of the Hugging Face hub
em data fetch NAME … | --all        download now (into the cache)
em data fetch --all --to DIR        fill a mirror folder, for EM_MIRROR=DIR on another machine
em data verify [NAME …]             fetch, checksum, row count, every row; exit code 1 when one is wrong
em data verify --profile            and what the rows of each are like (a minute or two, once)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from em.cli.show import listing
from em.cli.tool import answer_errors
from em.config import FileData, HubData, OnBadRow
from em.data.fetch import Source
from em.data.registry import DataSet, is_named
from em.errors import ConfigError, EmError, OutputError
from em.questions.registry import all_sources, find_set, source_of
from em.questions.sets import KnownSet


@answer_errors
def main(words: Sequence[str] | None = None) -> int:
    """Do what the words ask for; the exit code."""
    arguments = parser().parse_args(words)
    match arguments.command:
        case "list":
            print(listing())
        case "show":
            print(show(arguments))
        case "fetch":
            fetch_sets(wanted(arguments.names, arguments.all), arguments.to)
        case _:
            from em.cli.verify import verify_sets

            return verify_sets(arguments.names, arguments.profile)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog="em data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is")
    show_ = commands.add_parser("show", help="one set in full")
    show_.add_argument("name", help="a set, a file of yours, or a data set of the Hugging Face hub")
    show_.add_argument("--model", metavar="ID", help="count tokens too: embedded:smollm2, a hub id or a folder")
    show_.add_argument("--path", metavar="FILE", help="your copy, of a set that em may not fetch")
    show_.add_argument("--subset", metavar="NAME", help="of a set of the hub: which configuration")
    show_.add_argument("--split", metavar="NAME", default="train", help="of a set of the hub (default: train)")
    show_.add_argument("--revision", metavar="COMMIT", help="of a set of the hub (default: the newest)")
    fetch_ = commands.add_parser("fetch", help="download sets")
    fetch_.add_argument("names", nargs="*", metavar="NAME")
    fetch_.add_argument("--all", action="store_true", help="every file of others that em knows")
    fetch_.add_argument("--to", type=Path, metavar="DIR", help="into a mirror folder, for EM_MIRROR")
    verify_ = commands.add_parser("verify", help="check sets, all of them without names")
    verify_.add_argument("names", nargs="*", metavar="NAME")
    verify_.add_argument("--profile", action="store_true", help="look at what the rows are like, as show does")
    return whole


def show(arguments: argparse.Namespace) -> str:
    """All that is known of a set."""
    name, model, path = arguments.name, arguments.model, arguments.path
    from em.cli.show import show_facts, show_known, show_questions, show_rows
    from em.data.rows import read_whole
    from em.questions.sets import load_set

    found = find_set(name)
    if isinstance(found, KnownSet):
        return show_known(found, load_set(name))
    if isinstance(found, str):
        return f"{name}, written for em\n\n{show_questions(load_set(name))}"
    config = found.config
    match config:
        case FileData() if path:
            config = replace(config, path=path)
        case _ if path:
            raise ConfigError(f"--path is for sets that em may not fetch: {name} is not one of them.")
        case HubData():
            config = replace(config, subset=arguments.subset, split=arguments.split, revision=arguments.revision)
    facts = show_facts(DataSet(config, found.about))
    if not is_named(config):
        return f"{facts}\n\nTo see its rows, name your copy: --path FILE."
    whole = read_whole(replace(config, on_bad_row=OnBadRow.skip))
    tokens = None
    if model:
        from em.models.tokens import token_lengths

        tokens = token_lengths(whole.conversations, model)
    return f"{facts}\n\n{show_rows(whole, tokens, model or '')}"


def wanted(names: list[str], everything: bool) -> dict[str, Source]:
    """The files to fetch, by set. Raises ConfigError when none was named."""
    if everything:
        return all_sources()
    if not names:
        raise ConfigError("fetch what? Name sets, or write --all (em data list prints the names).")
    files = {}
    for name in names:
        match find_set(name):
            case DataSet(config=config):
                source = source_of(config)
            case KnownSet() as known:
                source = source_of(known)
            case _:
                source = None
        if source is None:
            print(f"{name} has nothing to fetch: it comes with em, is read where it is, or only you may have it.")
        else:
            files[name] = source
    return files


def fetch_sets(files: Mapping[str, Source], folder: Path | None) -> None:
    """Download files, into the cache or a mirror folder; one that is there whole is passed over."""
    from tqdm import tqdm

    from em.data.fetch import fetch, fetch_to
    from em.runtime.files import writable_folder

    if folder is not None:
        folder = folder.expanduser()
        writable_folder(folder, "--to")
    fresh = 0
    try:
        with tqdm(total=sum(file.bytes or 0 for file in files.values()), unit="B", unit_scale=True) as bar:
            for name, file in files.items():
                bar.set_description(name)
                if folder is None:
                    print(f"{name}: {fetch(file)}")
                else:
                    fresh += fetch_to(folder, file)
                bar.update(file.bytes or 0)
    except OSError as error:
        if isinstance(error, EmError):
            raise
        place = error.filename or folder
        raise OutputError(f"{place} can't be written ({error.strerror}): make room there.") from error
    print(*terms_of(files), sep="\n")
    if folder is not None:
        print(f"{len(files)} files in {folder}, {fresh} of them new: use it by EM_MIRROR={folder}")


def terms_of(names: Iterable[str]) -> Iterator[str]:
    """A line for each licence and its terms, with the sets that they hold for."""
    by_terms: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = find_set(name)
        if not isinstance(found, str):
            known = found.config if isinstance(found, DataSet) else found
            by_terms.setdefault((known.licence, " ".join(known.terms.split())), []).append(name)
    for (licence, terms), sets in by_terms.items():
        yield f"Terms of {', '.join(sets)} (licence: {licence or 'none stated'}): {terms or 'none stated'}"
