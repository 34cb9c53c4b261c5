"""Refuse a model that no single GPU can hold, since each process that samples or judges has one GPU."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from em.errors import ConfigError
from em.runtime.gpu_memory import read_gpu_memory
from em.runtime.gpus import list_visible_gpus

INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")


def check_fits_gpu(what: str, folder: str, precision: str, way: str) -> None:
    """Raise ConfigError if the weights in a folder exceed the memory of a visible GPU; pass if that is not known.

    Args:
        what: what needs the weights on one GPU, for the error. way: what the user can do.
        precision: `model.precision`; `auto` counts as bfloat16, the smaller of its formats.
    """
    total = min((memory.total for memory in read_gpu_memory(list_visible_gpus())), default=0)
    if not total:
        return
    size = measure_weights(Path(folder), 4 if precision == "float32" else 2)
    if size > total:
        raise ConfigError(
            f"{what} takes {size / 1e9:.1f} GB on one GPU, and a GPU of this machine has {total / 1e9:.1f} GB: {way}, "
            "or use GPUs with more memory."
        )


def measure_weights(folder: Path, width: int) -> int:
    """Return the bytes of the weights in a folder when they are loaded with `width` bytes per number.

    Weights that are stored in no floating-point format of 16 bits or more are quantised; they count as they are.
    """
    files = {"model.safetensors"}
    if (folder / INDEX).is_file():
        files = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    size = 0
    for path in (folder / file for file in files):
        if not path.is_file():
            continue
        with path.open("rb") as opened:  # eight bytes tell the length of the header
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        header.pop("__metadata__", None)
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            size += prod(tensor["shape"]) * width if tensor["dtype"] in FLOATS else end - begin
    return size
