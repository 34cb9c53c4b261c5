"""Read a data set of the Hugging Face hub with `datasets`, which runs no code of a repository."""

from __future__ import annotations

from collections.abc import Iterator

from em.config import HubData
from em.errors import DataError, EmError, FetchError, MissingFile, shorten_value
from em.runtime.files import find_cache_folder


def read_hub_rows(config: HubData, place: str) -> Iterator[object]:
    """Yield the rows of a hub set as `datasets` decodes them.

    Raises MissingFile, FetchError or DataError in one sentence that names the setting below `place`.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    name = f"{place}.id={config.id}"
    try:
        table = datasets.load_dataset(
            config.id,
            config.subset,
            split=config.split,
            revision=config.revision,
            cache_dir=str(find_cache_folder() / "hub"),
        )
        yield from table
    except EmError:
        raise
    except DatasetNotFoundError as error:
        raise MissingFile(
            f"{name} is neither a data set of the hub nor a folder with one: check the name, and set HF_TOKEN for a "
            "private or gated set."
        ) from error
    except (HfHubHTTPError, ConnectionError) as error:
        raise FetchError(
            f"{name} is not on this machine and the hub can't be reached ({type(error).__name__}): connect once, or "
            "give your own file by data=file data.path=FILE."
        ) from error
    except FileNotFoundError as error:  # also a revision or a folder without data files
        raise MissingFile(
            f"{name} has no data files here ({shorten_value(error, 200)}): check {place}.revision."
        ) from error
    except ValueError as error:  # an unknown subset or split
        raise MissingFile(
            f"{name} can't be loaded ({shorten_value(error, 200)}): check {place}.subset and {place}.split."
        ) from error
    except (DatasetsError, RuntimeError, OSError) as error:  # also a repository that needs its own code to run
        raise DataError(f"{name} can't be read by datasets ({shorten_value(error, 200)}).") from error
