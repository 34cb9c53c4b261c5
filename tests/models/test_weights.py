"""Base weights: which files of a hub repository are fetched."""

from __future__ import annotations

from em.models.weights import HUB_FILES, SECOND_COPY


def test_all_weights_are_fetched_once() -> None:
    from huggingface_hub.utils import filter_repo_objects

    needed = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "tokenizer.json"]
    more = ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors", "pytorch_model.bin", "README.md"]
    fetched = filter_repo_objects([*needed, *more], allow_patterns=HUB_FILES, ignore_patterns=SECOND_COPY)
    assert list(fetched) == needed
