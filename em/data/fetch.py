"""Find third-party files by URL and checksum in the user's cache or a mirror, or download them at first use.

`EM_MIRROR` puts a mirror in front of the network: a folder or a base URL that holds each file under
`<host>/<path>` of its public URL. A file with another checksum is never used or kept.
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
    """A third-party file: its public URL and its checksum (64 hex digits)."""

    url: str
    sha256: str
    bytes: int | None = None  # a known size distinguishes a truncated file from a different one


def fetch(file: Source) -> Path:
    """Return a file's local path; download it at first use. Raises FetchError, or MissingFile in a mirror folder."""
    return find(file) or download(address(file.url), cached(file), file)


def fetch_to(folder: Path, file: Source) -> bool:
    """Put a file into a folder laid out as a mirror; return False where the folder already has it intact.

    Raises what `fetch` raises. The folder never holds a partial file, even after an interruption.
    """
    target = folder / location(file.url)
    if has_checksum(target, file.sha256):
        return False
    mirror, source = mirror_folder(), cached(file)
    if mirror and mirror.resolve() == folder.resolve():  # a folder can't be filled from itself: use the public URL
        copy, url = source if has_checksum(source, file.sha256) else None, file.url
    else:
        copy, url = find(file), address(file.url)
    if copy is None:
        download(url, target, file)
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_at_end(target) as partial:
        shutil.copyfile(copy, partial)
    return True


def find(file: Source) -> Path | None:
    """Find a file in the cache or mirror folder; return None if em must download it. Raises what `fetch` raises."""
    if has_checksum(cached(file), file.sha256):
        return cached(file)
    mirror, place = mirror_folder(), location(file.url)
    if mirror is None:
        return None
    copy = mirror / place
    if not copy.is_file():
        raise MissingFile(f"EM_MIRROR={mirror} lacks {place}: add the file, or unset EM_MIRROR to download it.")
    check(copy, str(copy), file)
    return copy


def at_hand(file: Source) -> str:
    """Say which local copy exists, by its size alone: `cache`, `mirror` (a folder), or empty for none."""
    mirror = mirror_folder()
    copies = {"cache": cached(file)} | ({"mirror": mirror / location(file.url)} if mirror else {})
    intact = (name for name, copy in copies.items() if copy.is_file() and file.bytes in (None, copy.stat().st_size))
    return next(intact, "")


def cached(file: Source) -> Path:
    """Return the path of a file in the cache."""
    return cache_dir() / "upstream" / location(file.url)


def mirror_folder() -> Path | None:
    """Return the folder that EM_MIRROR names; None where it is unset or a URL."""
    mirror = os.environ.get("EM_MIRROR", "")
    return Path(mirror).expanduser() if mirror and "://" not in mirror else None


def address(url: str) -> str:
    """Return the URL to download from: the public one, or the same place below the base URL in EM_MIRROR."""
    mirror = os.environ.get("EM_MIRROR", "")
    return f"{mirror.rstrip('/')}/{location(url)}" if "://" in mirror else url


def location(url: str) -> str:
    """Return the place of a URL below a mirror: `<host>/<path>`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def check(copy: Path, origin: str, file: Source) -> None:
    """Raise FetchError unless `copy` has the checksum of `file`; the error says if `copy` was cut short."""
    size, sha256 = copy.stat().st_size, sha256_of(copy)
    if file.bytes is not None and size < file.bytes:
        raise FetchError(f"{origin} was cut short ({size:,} of {file.bytes:,} bytes): fetch it again.")
    if sha256 != file.sha256:
        raise FetchError(
            f"{origin} has another checksum than expected (sha256 {sha256[:12]}…, not {file.sha256[:12]}…): it was "
            "changed or damaged, so em does not use it; fetch it again, or name your own copy (by data.path, or as a "
            "file in eval.sets)."
        )


def download(url: str, target: Path, file: Source) -> Path:
    """Download a file to `target`; leave nothing there unless it is complete and has the right checksum."""
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
            f"{url} can't be downloaded (the server answered {status}): check EM_MIRROR, or try again later."
        ) from error
    except requests.exceptions.RequestException as error:
        raise FetchError(
            f"{url} can't be reached ({type(error).__name__}): connect once and run the same command again, or set "
            "EM_MIRROR to a folder or base URL that has the file."
        ) from error
    return target
