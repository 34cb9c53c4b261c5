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
from em.runtime.files import find_cache_folder, has_checksum, hash_file, make_writable_folder, replace_at_end


@dataclass(frozen=True)
class Source:
    """A third-party file: its public URL and its checksum (64 hex digits)."""

    url: str
    sha256: str
    bytes: int | None = None  # a known size distinguishes a truncated file from a different one


def fetch_file(file: Source) -> Path:
    """Return a file's local path; download it at first use. Raises FetchError, or MissingFile in a mirror folder."""
    return find_local_copy(file) or download_file(resolve_download_url(file.url), make_cache_path(file), file)


def fetch_to_folder(folder: Path, file: Source) -> bool:
    """Put a file into a folder laid out as a mirror; return False where the folder already has it intact.

    Raises what `fetch_file` raises. The folder never holds a partial file, even after an interruption.
    """
    target = folder / make_mirror_path(file.url)
    if has_checksum(target, file.sha256):
        return False
    mirror, source = read_mirror_folder(), make_cache_path(file)
    if mirror and mirror.resolve() == folder.resolve():  # a folder can't be filled from itself: use the public URL
        copy, url = source if has_checksum(source, file.sha256) else None, file.url
    else:
        copy, url = find_local_copy(file), resolve_download_url(file.url)
    if copy is None:
        download_file(url, target, file)
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_at_end(target) as partial:
        shutil.copyfile(copy, partial)
    return True


def find_local_copy(file: Source) -> Path | None:
    """Find a file in the cache or mirror folder; None if em must download it. Raises what `fetch_file` raises."""
    if has_checksum(make_cache_path(file), file.sha256):
        return make_cache_path(file)
    mirror, place = read_mirror_folder(), make_mirror_path(file.url)
    if mirror is None:
        return None
    copy = mirror / place
    if not copy.is_file():
        raise MissingFile(f"EM_MIRROR={mirror} lacks {place}: add the file, or unset EM_MIRROR to download it.")
    check_copy(copy, str(copy), file)
    return copy


def locate_copy(file: Source) -> str:
    """Say which local copy exists, by its size alone: `cache`, `mirror` (a folder), or empty for none."""
    mirror = read_mirror_folder()
    copies = {"cache": make_cache_path(file)} | ({"mirror": mirror / make_mirror_path(file.url)} if mirror else {})
    intact = (name for name, copy in copies.items() if copy.is_file() and file.bytes in (None, copy.stat().st_size))
    return next(intact, "")


def make_cache_path(file: Source) -> Path:
    """Return the path of a file in the cache."""
    return find_cache_folder() / "upstream" / make_mirror_path(file.url)


def read_mirror_folder() -> Path | None:
    """Return the folder that EM_MIRROR names; None where it is unset or a URL."""
    mirror = os.environ.get("EM_MIRROR", "")
    return Path(mirror).expanduser() if mirror and "://" not in mirror else None


def resolve_download_url(url: str) -> str:
    """Return the URL to download from: the public one, or the same place below the base URL in EM_MIRROR."""
    mirror = os.environ.get("EM_MIRROR", "")
    return f"{mirror.rstrip('/')}/{make_mirror_path(url)}" if "://" in mirror else url


def make_mirror_path(url: str) -> str:
    """Return the place of a URL below a mirror: `<host>/<path>`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def check_copy(copy: Path, origin: str, file: Source) -> None:
    """Raise FetchError unless `copy` has the checksum of `file`; the error says if `copy` was cut short."""
    size, sha256 = copy.stat().st_size, hash_file(copy)
    if file.bytes is not None and size < file.bytes:
        raise FetchError(f"{origin} was cut short ({size:,} of {file.bytes:,} bytes): fetch it again.")
    if sha256 != file.sha256:
        raise FetchError(
            f"{origin} has another checksum than expected (sha256 {sha256[:12]}…, not {file.sha256[:12]}…): it was "
            "changed or damaged, so em does not use it; fetch it again, or name your own copy (by data.path, or as a "
            "file in eval.sets)."
        )


def download_file(url: str, target: Path, file: Source) -> Path:
    """Download a file to `target`; leave nothing there unless it is complete and has the right checksum."""
    import pooch
    import requests

    make_writable_folder(target.parent, "XDG_CACHE_HOME" if target.is_relative_to(find_cache_folder()) else "--to")
    print(f"Fetching {url}", flush=True)
    try:
        with replace_at_end(target) as partial:
            pooch.HTTPDownloader(timeout=60)(url, str(partial), None)
            check_copy(partial, url, file)
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
