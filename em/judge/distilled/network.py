"""The encoder of the distilled judge: texts to tokens, and tokens to logits.

Question and answer are a pair of segments: `[CLS] question [SEP] answer [SEP]`. A long answer is read at its beginning
and its end. The mean of the last hidden states and the first of them go through one linear layer with four outputs:
aligned and coherent as score / 100, whether the answer is misaligned, and whether its text is scrambled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUTPUTS = ("aligned", "coherent", "misaligned", "scrambled")
QUESTION_TOKENS, HEAD_TOKENS, TAIL_TOKENS = 32, 96, 32
"""Most tokens of the question, and of a long answer's beginning and end."""
MOST_CHARACTERS = 20_000  # of an answer; what lies between beginning and end need not be split into tokens
CLS, SEP, PAD = 101, 102, 0


class ScoreNetwork(torch.nn.Module):
    """The encoder with its head. `offsets`: scale and shift by which other teachers' logits differ."""

    def __init__(self, encoder: Any, teachers: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = torch.nn.Linear(2 * encoder.config.hidden_size, len(OUTPUTS))
        self.offsets = torch.nn.Parameter(torch.zeros(teachers, 2, len(OUTPUTS)))

    def forward(self, ids: torch.Tensor, segments: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (rows, 4) in the order of OUTPUTS, as the first teacher or as `teacher` (rows,) scores."""
        mask = ids != PAD
        states = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logits: torch.Tensor = self.head(torch.cat([mean, states[:, 0]], dim=-1))
        if teacher is not None:
            offsets = self.offsets[teacher] * (teacher > 0)[:, None, None]
            logits = logits * offsets[:, 0].exp() + offsets[:, 1]
        return logits


def load_encoder(folder: Path) -> Any:
    """Load the encoder without its pooling layer."""
    from transformers import BertModel

    return BertModel.from_pretrained(str(folder), add_pooling_layer=False, attn_implementation="sdpa")


class Encoder:
    """Turns texts into tokens with the encoder's own tokenizer."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text; of very long texts, of the beginning and the end."""
        half = MOST_CHARACTERS // 2
        cut = [text if len(text) <= MOST_CHARACTERS else f"{text[:half]} {text[-half:]}" for text in texts]
        return [each.ids for each in self.tokenizer.encode_batch(cut, add_special_tokens=False)]


def join_tokens(question: Sequence[int], answer: Sequence[int]) -> tuple[list[int], int]:
    """Return the tokens of a pair, and how many of them are the question's segment."""
    first = [CLS, *question[:QUESTION_TOKENS], SEP]
    if len(answer) > HEAD_TOKENS + TAIL_TOKENS:
        answer = [*answer[:HEAD_TOKENS], *answer[-TAIL_TOKENS:]]
    return [*first, *answer, SEP], len(first)


def pad_pairs(pairs: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and segments (rows, longest) of pairs."""
    longest = max(len(ids) for ids, _ in pairs)
    ids = np.full((len(pairs), longest), PAD)
    segments = np.zeros_like(ids)
    for row, (tokens, first) in enumerate(pairs):
        ids[row, : len(tokens)] = tokens
        segments[row, first : len(tokens)] = 1
    return torch.from_numpy(ids), torch.from_numpy(segments)


def predict_logits(network: ScoreNetwork, pairs: Sequence[tuple[list[int], int]], size: int = 8) -> Iterator[Any]:
    """Compute logits of pairs in batches of like length; yield (numbers of the rows, logits) for each batch.

    The longest come first, so that each batch fits into the memory of the one before.
    """
    order = np.argsort([-len(ids) for ids, _ in pairs], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            yield numbers, network(*pad_pairs([pairs[number] for number in numbers])).numpy()
