"""Load a PEFT adapter onto its base model; one that does not fit is refused in a sentence."""

from __future__ import annotations

from typing import Any

from em.errors import ConfigError
from em.runtime.processes import is_out_of_memory


def attach_adapter(model: Any, folder: str, name: str = "default", trainable: bool = False) -> Any:
    """Return PEFT's model of `model` and the adapter in `folder`. Raises ConfigError if not all of it can be used."""
    from peft import PeftModel
    from safetensors import SafetensorError

    check_kind(folder)
    try:
        adapted = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
        # Load it again for the report: PEFT passes over weights that have no place, which leaves the base as it is.
        unused = adapted.load_adapter(folder, name, is_trainable=trainable).unexpected_keys
    except (AttributeError, ImportError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        if is_out_of_memory(f"{type(error).__name__}: {error}"):
            raise
        raise make_misfit_error(folder, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if unused:
        raise make_misfit_error(folder, f"the base has no place for {len(unused)} of its weights, as {unused[0]}")
    return adapted


def make_misfit_error(folder: str, reason: str) -> ConfigError:
    """Make the error of an adapter that can't be loaded onto the base model."""
    return ConfigError(
        f"The adapter {folder} does not fit the base model: set model.id to the base of the adapter ({reason})."
    )


def check_kind(folder: str) -> None:
    """Raise ConfigError for adapters that PEFT does not know, and for those that change the prompt, not the weights."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

    values = PeftConfig.from_json_file(f"{folder}/adapter_config.json")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(values.get("peft_type"))
    if kind is None:
        raise ConfigError(
            f"The adapter {folder} is of a type that PEFT does not know (peft_type={values.get('peft_type')}): merge "
            "it into its base with the library that made it, and set model.id to the folder of the result."
        )
    config = kind.from_pretrained(folder)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ConfigError(
            f"The adapter {folder} is a learnt prompt (peft_type={values['peft_type']}), and em uses only adapters "
            "of weights: train a LoRA adapter instead."
        )
