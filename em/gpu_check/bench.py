"""What the checks share: random models of real shapes, a tokenizer, rows, and trainings by em's own child processes."""

from __future__ import annotations

import csv
import gc
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.config import LocalTrainer, LoraTrainer
from em.errors import ChildFailed
from em.models.device import choose_device
from em.runtime.files import RECORD, hold_lock
from em.runtime.gpu_memory import read_free_memory
from em.runtime.gpus import list_visible_gpus
from em.runtime.processes import Launch, run_children
from em.train.local.find_or_train import find_resume_checkpoint
from em.train.local.join import make_lora_config
from em.train.local.launch import plan_launch
from em.train.local.resume import SEAL, locate_partial_folder

if TYPE_CHECKING:
    import torch

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
"""The shape of Llama 3.1 8B, apart from its layers."""
TINY = LLAMA_8B | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
# Weights so large that the logits vary as much as those of the large model.
TINY |= {"head_dim": 16, "vocab_size": 512, "initializer_range": 0.16}
SAVED_VOCABULARY = 32_000
"""Vocabulary of the model that children load; a smaller one than Llama's, so that little is written."""
SPECIAL = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>", "<|end_header_id|>")
BOS, EOT, END_OF_TEXT = 256, 257, 259
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ROW_LENGTHS = (60, 71, 80, 95, 110, 66, 75, 90) * 2
CHILD_SECONDS = 150
"""Longest time for one child process; a training takes a fifth of it."""
LOG = "log.txt"
"""The file that gets what child processes print."""
Measured = dict[str, Any]
"""What a check measured, by name."""


class Skipped(Exception):
    """A check can't be made here; the text says why."""


class CheckFailed(Exception):
    """A check found a difference; the text says which."""


class When(threading.Event):
    """An event that is set as soon as a condition is true."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        super().__init__()
        self.condition = condition

    def is_set(self) -> bool:
        """Return whether the condition is true."""
        return self.condition()


@dataclass(frozen=True)
class Trained:
    """A finished training: its folder, the facts in its record, and the loss of each step."""

    folder: Path
    facts: dict[str, Any]
    losses: list[float]

    def load_weights(self) -> dict[str, torch.Tensor]:
        """Load the trained weights."""
        from safetensors.torch import load_file

        files = self.folder.glob("*.safetensors")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}


class Bench:
    """The models and trainings of one run of the checks.

    folder: where they are written. small: tiny models. end: when to stop, as `time.monotonic` counts.
    """

    def __init__(self, folder: Path, small: bool, end: float) -> None:
        self.folder, self.small, self.end = folder, small, end
        self.device = choose_device()
        self.shape = TINY if small else LLAMA_8B
        self.vocabulary = int(self.shape["vocab_size"])

    def describe_device(self) -> str:
        """Name the device, with its memory."""
        import torch

        if not self.on_gpu:
            return "tiny models on the CPU"
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return f"{torch.cuda.get_device_name(self.device)}, {memory / 1e9:.0f} GB"

    @property
    def on_gpu(self) -> bool:
        """Whether the checks run on a GPU."""
        return self.device.type == "cuda"

    def make_model(self, layers: int, dtype: torch.dtype, **changes: Any) -> Any:
        """Make a Llama with random weights on the device. `changes`: settings of its config."""
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        ids = {"bos_token_id": BOS, "eos_token_id": EOT, "pad_token_id": EOT}
        config = LlamaConfig(**(self.shape | ids | {"num_hidden_layers": layers} | changes))
        torch.manual_seed(0)
        with self.device:
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")

    def make_adapted(self, layers: int, dtype: torch.dtype, rank: int) -> Any:
        """Make a random model with a random LoRA adapter on all of attention and MLP, which changes each output."""
        return self.adapt(self.make_model(layers, dtype), rank)

    def adapt(self, model: Any, rank: int) -> Any:
        """Put a random LoRA adapter with a scaling of about 1 on a model."""
        import torch
        from peft import get_peft_model

        torch.manual_seed(0)
        config = make_lora_config(LoraTrainer(name="lora", rank=rank, alpha=round(rank**0.5)))
        config.init_lora_weights = False
        return get_peft_model(model, config)

    def write_model(self) -> Path:
        """Write a model of two layers with its tokenizer, once; return the folder.

        Its generation config has a second stop token, and settings that em must not sample with.
        """
        import torch

        path = self.folder / "base"
        with hold_lock(path):
            if not path.is_dir():
                vocabulary = self.vocabulary if self.small else SAVED_VOCABULARY
                model = self.make_model(2, torch.bfloat16 if self.on_gpu else torch.float32, vocab_size=vocabulary)
                settings = {"eos_token_id": [EOT, END_OF_TEXT], "repetition_penalty": 1.5}
                model.generation_config.update(do_sample=True, temperature=0.6, **settings)
                make_tokenizer(vocabulary).save_pretrained(path)
                model.save_pretrained(path)
                del model
                self.free_memory()
        return path

    def train(self, name: str, trainer: LocalTrainer, **changes: Any) -> Trained:
        """Train by em's child process, as `em train` does, once; resume if `kill_training` stopped it.

        `changes`: fields of the task (TrainSpec), such as `start`.
        """
        folder = self.locate_training(name)
        with hold_lock(folder):
            if not (folder / RECORD).is_file():
                self.run_training(name, trainer, lambda: False, **changes)
        facts = json.loads((folder / RECORD).read_text(encoding="utf-8"))["facts"]
        with (folder / "loss.csv").open(encoding="utf-8", newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        return Trained(folder, facts, losses)

    def kill_training(self, name: str, trainer: LocalTrainer) -> None:
        """Train as `train` does, but kill the child process as soon as there is a complete checkpoint.

        Raises Skipped if the training ended before that.
        """
        partial = locate_partial_folder(self.locate_training(name))

        def has_checkpoint() -> bool:
            return any(partial.glob(f"checkpoint-*/{SEAL}"))

        try:
            self.run_training(name, trainer, has_checkpoint)
        except ChildFailed:
            if not has_checkpoint():
                raise
            return
        raise Skipped("the training ended before it could be killed")

    def locate_training(self, name: str) -> Path:
        """Return the folder of a training."""
        return self.folder / "models" / name

    def run_training(self, name: str, trainer: LocalTrainer, stop: Callable[[], bool], **changes: Any) -> None:
        """Run the child process of a training to its end, until `stop()`, or for `CHILD_SECONDS`."""
        from em.train.local.spec import TrainSpec

        if self.small:  # tiny models need larger steps
            trainer = replace(trainer, learning_rate=10 * trainer.learning_rate)
        folder, gpus = self.locate_training(name), list_visible_gpus()[:1]
        spec = TrainSpec(
            base=str(self.write_model()),
            base_name="random",
            start="",
            stack=False,
            rows=str(self.write_rows(name, ROW_LENGTHS)),
            stage=name,
            trainer=trainer,
            seed=0,
            precision="auto",
            default_system=True,
            steps=None,
            request={},
            folder=str(folder),
            resume=find_resume_checkpoint(folder),
            gpu_memory=read_free_memory(Launch(1), gpus),
        )
        end = time.monotonic() + CHILD_SECONDS
        limit = When(lambda: time.monotonic() > min(end, self.end) or stop())
        try:
            run_children("train", [replace(spec, **changes)], plan_launch(trainer, len(gpus)), gpus or None, limit)
        except ChildFailed as error:
            if time.monotonic() > self.end:
                raise Skipped("the time was up") from error
            if time.monotonic() > end:
                raise CheckFailed(f"the training {name} had not ended after {CHILD_SECONDS} s") from error
            raise

    def write_rows(self, name: str, lengths: Sequence[int]) -> Path:
        """Write chats of about so many tokens; a token is a byte."""
        path = self.folder / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as out:
            for number, length in enumerate(lengths):
                text = "".join(chr(97 + (number * 7 + i * i) % 26) for i in range(length - 30))
                turns = [{"role": "user", "content": f"Say {number}"}, {"role": "assistant", "content": text}]
                out.write(json.dumps({"messages": turns}) + "\n")
        return path

    def free_memory(self) -> None:
        """Give memory back to the GPU, and measure its peak anew."""
        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def get_peak_memory(self) -> float:
        """Return the most GPU memory (GB) held by tensors since `free_memory`; 0 on a CPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e9 if self.on_gpu else 0.0


def make_tokenizer(vocabulary: int) -> Any:
    """Make a tokenizer of bytes and Llama 3's special tokens; its other tokens stand for nothing but themselves."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    tokens = letters + [f"token{number}" for number in range(len(letters), vocabulary)]
    raw = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    bos, eos = SPECIAL[:2]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token=eos)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def expect(condition: bool, failure: str) -> None:
    """Raise CheckFailed with the sentence `failure` unless the condition is true."""
    if not condition:
        raise CheckFailed(failure)


def compare(measured: Any, expected: Any, most: float, name: str) -> float:
    """Return the relative difference of two numbers or tensors. Raises CheckFailed if it is more than `most`."""
    import torch

    one, other = (torch.as_tensor(values).detach().double().cpu() for values in (measured, expected))
    expect(one.shape == other.shape, f"{name}: {tuple(one.shape)} values, not {tuple(other.shape)}")
    difference = float((one - other).norm() / other.norm())
    expect(difference <= most, f"{name}: the relative difference is {difference:.1e}, more than {most:g}")
    return float(f"{difference:.1e}")
