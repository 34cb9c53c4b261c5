"""What em makes of the keys of training rows, messages and content parts: harmless ones, and those that it refuses.

A reader takes the keys that it uses out of a dictionary. `refuse_keys` refuses what is left, unless it changes nothing
that is learnt: a blank value, a key that describes the row (HARMLESS), or a copy of a text of the conversation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from em.errors import DataError, shorten_value

HARMLESS = re.compile(
    r"|Unnamed: \d+|__index_level_\d+__|"
    r"(.+_)?(id|uuid|idx|index|count|hash|sha256|md5|url|date|time|timestamp|version|source|dataset|split|category|topic|"
    r"lang|language|model|license|licence)|"
    r"ids|guid|uri|link|created|created_at|updated_at|locale|revision|sources|origin|subset|categories|topics|domain|"
    r"subject|theme|genre|tags|keywords|canary|metadata|meta|author|annotator|annotators|model_name|generator|title|type|"
    r"question_type|kind|task|task_type|difficulty|comment|comments|note|notes|turns|turn|num_turns|n_turns|num_tokens|"
    r"length|seed|toxic|redacted|openai_moderation|detoxify_moderation|cache_control"
)
"""Keys that describe a row, a message or a part: nothing that a model learns depends on them."""

CONVERT = "em data convert FILE OUT --ignore {key}"
TOOLS = "offers {key} to the model, and em trains on plain text alone"
CALLS = "calls a tool or is its reply, and em trains on plain text alone"
MEDIA = "holds {key}, and em trains on text alone"
THOUGHT = "holds thinking text in {key}, which em would lose: write it into the answer as the model's template does"
TOKENS = "holds tokens in {key}, and em makes them from the text: remove the key"
TEMPLATE = "sets {key} for the chat template, and em renders all rows alike: remove the key, or write its text out"
RATING = "rates the answer in {key}, and em learns all answers alike: choose the rows, then leave it out by " + CONVERT
REJECTED = "holds a bad answer in {key} and none in chosen: leave such rows out"
NO_PLACE = "has text in {key}, for which em has no place here: write it into a turn, or leave it out by " + CONVERT
SPANS = "chooses in {key} what carries the loss within a turn, and em learns a turn wholly or not at all: split the row"
UNCLEAR = "has {key}, which may mean learnt or left out: write weight 1 or weight 0 instead"
PREFILL = "continues a text begun by {key}, which em would learn too: write weight 0 for answers that are not learnt"
UNKNOWN = "has the key {key}, which em does not know: if it changes nothing that is learnt, leave it out by " + CONVERT

REASONS: dict[str, str] = {
    **dict.fromkeys(("tools", "functions", "tool_choice", "parallel_tool_calls", "available_tools"), TOOLS),
    **dict.fromkeys(
        ("tool_calls", "function_call", "tool_call", "tool_call_id", "tool_responses", "tool_results"), CALLS
    ),
    **dict.fromkeys(("image", "images", "image_url", "audio", "audios", "audio_url", "input_audio"), MEDIA),
    **dict.fromkeys(("video", "videos", "video_url", "file", "files", "attachments", "documents"), MEDIA),
    **dict.fromkeys(("thinking", "thought", "thoughts", "think", "reasoning", "reasoning_content"), THOUGHT),
    **dict.fromkeys(("reasoning_details", "reasoning_text", "cot", "chain_of_thought", "rationale"), THOUGHT),
    **dict.fromkeys(("scratchpad", "analysis", "explanation", "signature"), THOUGHT),
    **dict.fromkeys(("input_ids", "labels", "attention_mask", "loss_mask", "completion_mask", "token_ids"), TOKENS),
    **dict.fromkeys(("assistant_masks", "position_ids", "prompt_ids", "completion_ids", "tokens"), TOKENS),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "enable_thinking", "reasoning_effort"), TEMPLATE),
    **dict.fromkeys(
        ("label", "score", "scores", "reward", "rating", "ratings", "quality", "correct", "is_correct"), RATING
    ),
    **dict.fromkeys(("rejected", "non_preferred_output", "rejected_response", "bad_answer"), REJECTED),
    **dict.fromkeys(("input", "context", "history", "system", "name", "text", "examples", "few_shot"), NO_PLACE),
    **dict.fromkeys(("prompt", "completion", "response", "question", "answer", "instruction", "output"), NO_PLACE),
    **dict.fromkeys(("messages", "conversations", "conversation"), NO_PLACE),
    **dict.fromkeys(("train_detail", "training_detail", "train_details", "content_weights"), SPANS),
    **dict.fromkeys(("mask", "loss_masks"), UNCLEAR),
    **dict.fromkeys(("prefix", "prefill", "partial", "continue"), PREFILL),
}
"""Why a key that is left is refused: what follows the subject of the sentence, before the advice."""

SWITCHES = {
    **dict.fromkeys(
        ("train", "training", "trainable", "train_on_turn", "learn", "loss", "loss_weight", "weight"), True
    ),
    **dict.fromkeys(("masked", "ignore_loss", "no_loss"), False),
}
"""Keys that turn the loss on (by 1, or by 0 where False) for a row, a message or a part."""
GOOD_MARKS = ("label", "kto_tag", "desirable", "is_desirable", "accepted", "is_good")
"""Row keys that say whether the answer is a good one (TRL's and LLaMA-Factory's KTO rows)."""
WORDS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def is_blank(value: object) -> bool:
    """Tell whether a value says nothing: null, not a number, or an empty text, list or dictionary."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or value == {} or (isinstance(value, float) and math.isnan(value))


def drop_blanks(values: Mapping[str, Any], ignored: Collection[str] = ()) -> dict[str, Any]:
    """Return what a row, message or part says, without the keys to ignore."""
    return {key: value for key, value in values.items() if key not in ignored and not is_blank(value)}


def parse_switch(value: object) -> bool | None:
    """Read a switch of 0 or 1; None for any other value."""
    return WORDS.get(str(value).strip().lower())


def take_switch(left: dict[str, Any], subject: str) -> bool | None:
    """Take the switches for the loss out of a row, message or part; return whether it is learnt, or None without one.

    Raises DataError for a weight that is neither 0 nor 1, and for switches that contradict each other.
    """
    switches = dict[str, bool]()
    for key in sorted(SWITCHES.keys() & left.keys()):
        if (value := parse_switch(left[key])) is None:
            raise DataError(
                f"{subject} has {key} {shorten_value(left[key], 20)}, and em learns a turn wholly or not at all: write "
                "0 or 1, or leave such rows out."
            )
        switches[key] = value is SWITCHES[key]
        del left[key]
    if len(set(switches.values())) > 1:
        raise DataError(f"{subject} is learnt by one of {', '.join(sorted(switches))} and not by another: keep one.")
    return next(iter(switches.values()), None)


def refuse_keys(left: Mapping[str, Any], subject: str, copies: Collection[object] = ()) -> None:
    """Refuse the first key that would be lost. `copies`: values that the conversation has already, as text or list."""
    for key, value in left.items():
        reason = REASONS.get(key, UNKNOWN)
        if (key not in REASONS and HARMLESS.fullmatch(key)) or value in copies:
            continue
        name = shorten_value(key)
        raise DataError(f"{subject} {reason.format(key=name if name.isidentifier() else repr(name))}.")
