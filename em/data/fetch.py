"""Third-party files: by address and checksum, from the user's cache, a mirror, or the network at first use.

`EM_MIRROR` puts a mirror in front of the network: a folder or a base URL that holds each file under
`<host>/<path>` of its public address. Nothing with another checksum is ever used or kept.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from em.errors import FetchError, MissingFile
from em.runtime.files import cache_dir, has_checksum, replace_at_end, sha256_of, writable_folder


@dataclass(frozen=True)
class Source:
    """A file of others, by its public address and its checksum (64 hex digits)."""

    url: str
    sha256: str
    bytes: int | None = None  # where it is known, a file that was cut short is told from another file


def fetch(file: Source) -> Path:
    """Give the file on this disk; download it at first use. Raises FetchError, or MissingFile of a mirror folder."""
    return find(file) or download(address(file.url), cached(file), file)


def fetch_to(folder: Path, file: Source) -> bool:
    """Put the file into a folder laid out as a mirror; False when it is there already, whole.

    Raises what `fetch` raises; what is in the folder is whole, whenever this is stopped.
    """
    target = folder / location(file.url)
    if has_checksum(target, file.sha256):
        return False
    mirror, source = mirror_folder(), cached(file)
    if mirror and mirror.resolve() == folder.resolve():  # then the file comes from its public address
        copy, where = source if has_checksum(source, file.sha256) else None, file.url
    else:
        copy, where = find(file), address(file.url)
    if copy is None:
        download(where, target, file)
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_at_end(target) as partial:
        shutil.copyfile(copy, partial)
    return True


def find(file: Source) -> Path | None:
    """Find the file in the cache or a mirror folder; None when it must be downloaded. Raises what `fetch` raises."""
    if has_checksum(cached(file), file.sha256):
        return cached(file)
    mirror, place = mirror_folder(), location(file.url)
    if mirror is None:
        return None
    if not (mirror / place).is_file():
        raise MissingFile(f"EM_MIRROR={mirror} lacks {place}: add the file, or unset EM_MIRROR to download it.")
    check(mirror / place, str(mirror / place), file)
    return mirror / place


def at_hand(file: Source) -> str:
    """Say where a file is without the network: `cache`, `mirror` (a folder) or empty. By its size, not its checksum."""
    mirror = mirror_folder()
    copies = {"cache": cached(file)} | ({"mirror": mirror / location(file.url)} if mirror else {})
    whole = (name for name, copy in copies.items() if copy.is_file() and file.bytes in (None, copy.stat().st_size))
    return next(whole, "")


def cached(file: Source) -> Path:
    """Say where the cache keeps a file."""
    return cache_dir() / "upstream" / location(file.url)


def mirror_folder() -> Path | None:
    """Give the folder that EM_MIRROR names, if it names one."""
    mirror = os.environ.get("EM_MIRROR", "")
    return Path(mirror).expanduser() if mirror and "://" not in mirror else None


def address(url: str) -> str:
    """Say where to download from: the public address, or the same place below the base URL in EM_MIRROR."""
    mirror = os.environ.get("EM_MIRROR", "")
    return f"{mirror.rstrip('/')}/{location(url)}" if "://" in mirror else url


def location(url: str) -> str:
    """Say where an address lies below a mirror: `<host>/<path>`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def check(copy: Path, origin: str, file: Source) -> None:
    """Raise FetchError unless `copy` has the checksum; say so when it was merely cut short."""
    size, sha256 = copy.stat().st_size, sha256_of(copy)
    if file.bytes is not None and size < file.bytes:
        raise FetchError(f"{origin} was cut short ({size:,} of {file.bytes:,} bytes): fetch it again.")
    if sha256 != file.sha256:
        raise FetchError(
            f"{origin} has another checksum than expected (sha256 {sha256[:12]}…, not {file.sha256[:12]}…): it was "
            "changed or damaged, so it is not used; fetch it again, or name a copy of yours (data.path, a file in "
            "eval.sets)."
        )


def download(url: str, target: Path, file: Source) -> Path:
    """Download to `target`, whole and with the right checksum, or not at all."""
    import pooch
    import requests

    writable_folder(target.parent, "XDG_CACHE_HOME" if target.is_relative_to(cache_dir()) else "--to")
    print(f"Fetching {url}", flush=True)
    try:
        with replace_at_end(target) as partial:
            pooch.HTTPDownloader(timeout=60)(url, str(partial), None)
            check(partial, url, file)
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise FetchError(
            f"{url} can't be had (the server answered {status}): check EM_MIRROR, or try later."
        ) from error
    except requests.exceptions.RequestException as error:
        raise FetchError(
            f"{url} can't be reached ({type(error).__name__}): connect once and run the same command again, or set "
            "EM_MIRROR to a folder or base URL that has it."
        ) from error
    return target
