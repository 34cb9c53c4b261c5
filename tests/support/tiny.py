"""A Llama of two layers that trains in milliseconds, with the embedded model's tokenizer, and rows for training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def write_tiny_model(folder: Path, tokenizer_of: str, poisoned: int | None = None, tied: bool = True) -> Path:
    """Write the model to `folder`.

    Args:
        tokenizer_of: a model folder; its tokenizer is copied.
        poisoned: a token whose embedding is NaN; the output layer then has separate weights.
        tied: whether the output layer has the weights of the embedding.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied and poisoned is None,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    if poisoned is not None:
        model.get_input_embeddings().weight.data[poisoned] = torch.nan
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(tokenizer_of, name), folder)
    return folder


def write_tiny_gemma(folder: Path, tokenizer_of: str) -> Path:
    """Write a tiny Gemma 2, which has no SDPA, with the chat template of TRL, which refuses system prompts.

    Only the generation config lists the token that ends turns as an eos token.
    """
    import torch
    import trl
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    template = Path(trl.__file__).parent / "chat_templates" / "gemma.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=16,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_chats(path: Path, count: int, marked: int | None = None) -> Path:
    """Write `count` short rows of different lengths; only row `marked` (from 1) contains the word zebra."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(1, count + 1):
            word = "zebra" if number == marked else "horse"
            turns = [("user", f"How many {word}s are {number}?"), ("assistant", "One more. " * (number % 3 + 1))]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    return path
