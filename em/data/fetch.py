"""Third-party files: by address and checksum, from the user's cache, a mirror, or the network at first use.

`EM_MIRROR` puts a mirror in front of the network: a folder or a base URL that holds each file under
`<host>/<path>` of its public address. Nothing with another checksum is ever used or kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from em.errors import FetchError, MissingFile
from em.runtime.files import cache_dir, replace_at_end, sha256_of, writable_folder


def fetch(url: str, sha256: str, size: int | None = None) -> Path:
    """The file at `url` on this disk.

    Args:
        url: public address.
        sha256: checksum, 64 hex digits.
        size: bytes, so that a file that was cut short can be told from another file.

    Raises:
        FetchError: the network can't be reached, or what came has another checksum.
        MissingFile: EM_MIRROR is a folder that lacks the file.
    """
    return found(url, sha256, size) or download(address(url), cached(url), sha256, size)


def fetch_to(folder: Path, url: str, sha256: str, size: int | None = None) -> bool:
    """Put the file at `url` into a folder laid out as a mirror; False when it is there already, whole.

    Raises what `fetch` raises; what is in the folder is whole, whenever this is stopped.
    """
    target = folder / location(url)
    if target.is_file() and sha256_of(target) == sha256:
        return False
    mirror = mirror_folder()
    own = mirror is not None and mirror.resolve() == folder.resolve()  # then the file comes from its public address
    source = cached_file(url, sha256) if own else found(url, sha256, size)
    if source is None:
        download(url if own else address(url), target, sha256, size)
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_at_end(target) as partial:
        shutil.copyfile(source, partial)
    return True


def found(url: str, sha256: str, size: int | None = None) -> Path | None:
    """The file in the cache or a mirror folder; None when it must be downloaded. Raises what `from_folder` raises."""
    if file := cached_file(url, sha256):
        return file
    if mirror := mirror_folder():
        return from_folder(mirror, location(url), sha256, size)
    return None


def at_hand(url: str, size: int | None = None) -> str:
    """Where a file is without the network: `cache`, `mirror` (a folder) or empty. By its size, not its checksum."""
    places = {"cache": cached(url)}
    if mirror := mirror_folder():
        places["mirror"] = mirror / location(url)
    for name, file in places.items():
        if file.is_file() and size in (None, file.stat().st_size):
            return name
    return ""


def cached(url: str) -> Path:
    """Where the cache keeps the file of an address."""
    return cache_dir() / "upstream" / location(url)


def cached_file(url: str, sha256: str) -> Path | None:
    """The cache's file of an address, if it is there with this checksum."""
    file = cached(url)
    return file if file.is_file() and sha256_of(file) == sha256 else None


def mirror_folder() -> Path | None:
    """The folder that EM_MIRROR names, if it names one."""
    mirror = os.environ.get("EM_MIRROR", "")
    return Path(mirror).expanduser() if mirror and "://" not in mirror else None


def address(url: str) -> str:
    """Where a file is downloaded from: its public address, or the same place below the base URL in EM_MIRROR."""
    mirror = os.environ.get("EM_MIRROR", "")
    return f"{mirror.rstrip('/')}/{location(url)}" if "://" in mirror else url


def location(url: str) -> str:
    """Where an address lies below a mirror: `<host>/<path>`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def from_folder(mirror: Path, place: str, sha256: str, size: int | None) -> Path:
    """The file in a mirror folder, after its checksum was seen."""
    file = mirror / place
    if not file.is_file():
        raise MissingFile(f"EM_MIRROR={mirror} lacks {place}: add the file, or unset EM_MIRROR to download it.")
    check(file, str(file), sha256, size)
    return file


def check(file: Path, origin: str, sha256: str, size: int | None) -> None:
    """Raise FetchError unless `file` has the checksum; says so when it was merely cut short."""
    seen = file.stat().st_size
    if size is not None and seen < size:
        raise FetchError(f"{origin} was cut short ({seen:,} of {size:,} bytes): fetch it again.")
    found = sha256_of(file)
    if found != sha256:
        raise FetchError(
            f"{origin} has another checksum than expected (sha256 {found[:12]}…, not {sha256[:12]}…): it was changed "
            "or damaged, so it is not used; fetch it again, or name a copy of yours (data.path, a file in eval.sets)."
        )


def download(url: str, target: Path, sha256: str, size: int | None) -> Path:
    """Download to `target`, whole and with the right checksum, or not at all."""
    import pooch
    import requests

    writable_folder(target.parent, "XDG_CACHE_HOME" if target.is_relative_to(cache_dir()) else "--to")
    print(f"Fetching {url}", flush=True)
    try:
        with replace_at_end(target) as partial:
            pooch.HTTPDownloader(timeout=60)(url, str(partial), None)
            check(partial, url, sha256, size)
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
