"""Check rows against the rules of OpenAI's fine-tuning, beyond the order of turns that em requires of every row.

At least 10 examples: the supervised fine-tuning guide (developers.openai.com/api/docs/guides/supervised-fine-tuning).
At most 65,536 tokens an example for gpt-4o, gpt-4o-mini and gpt-4.1 (the guide's table of token limits): the service
truncates longer ones, and the model learns an answer without its end. At most 512 MB a file (Files API reference).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from em.errors import DataError
from em.runtime.records import encode_canonical
from em.types import Conversation

FEWEST = 10  # rows per job
LONGEST = 65_536  # tokens per row
MOST_BYTES = 512 * 10**6  # per file
BYTES = 4  # per token: 4 letters in English, a little more than one character in Japanese
TURN = 4  # tokens per turn besides its text
MOST_TURN = 8  # upper bound of the same
RESERVED = (
    *("<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
)
"""Special tokens of the service, which refuses rows that contain them."""


def check_openai_rows(name: str, conversations: Sequence[Conversation]) -> None:
    """Raise DataError, with the row's number, for the first fault for which the service would refuse the rows."""
    if len(conversations) < FEWEST:
        raise DataError(f"{name} has {len(conversations)} rows, and a fine-tuning job takes at least {FEWEST}.")
    for number, conversation in enumerate(conversations, start=1):
        for role, word in find_reserved_words(conversation):
            raise DataError(
                f"{name}, row {number}: the {role} turn holds {word}, a special token that the service refuses: leave "
                "the row out, or remove the token from the text."
            )
        if (tokens := estimate_row_tokens(conversation)) > LONGEST:
            raise DataError(f"{name}, row {number} has about {tokens:,} tokens, and a job takes {LONGEST:,} a row.")
    if (size := measure_file_size(conversations)) > MOST_BYTES:
        raise DataError(f"{name} makes a file of {size / 1e6:,.0f} MB, and a job takes {MOST_BYTES // 10**6} MB.")


def list_openai_faults(conversations: Sequence[Conversation], tokens: Sequence[int] | None = None) -> list[str]:
    """List why the service would refuse or truncate these rows; `tokens`: exact tokens per row, if counted."""
    faults = []
    if len(conversations) < FEWEST:
        faults.append(f"{len(conversations)} rows are fewer than the {FEWEST} that it wants")
    words_by_row = [{word for _, word in find_reserved_words(row)} for row in conversations]
    if reserved := [each for each in words_by_row if each]:
        words = ", ".join(sorted(set[str]().union(*reserved)))
        faults.append(f"{len(reserved)} rows hold a token of its own ({words})")
    long = sum(estimate_row_tokens(row) > LONGEST for row in conversations)
    if tokens is not None:
        if cut := sum(count > LONGEST for count in tokens):
            faults.append(f"{cut} rows have more than {LONGEST:,} tokens and would be cut")
    elif long:
        faults.append(f"{long} rows have more than {LONGEST:,} tokens, as estimated (count them by --model)")
    # An upper bound for any tokenizer: no token is shorter than a byte.
    elif most := sum(sum(len(m.content.encode()) + MOST_TURN for m in row.messages) > LONGEST for row in conversations):
        faults.append(f"{most} rows may have more than {LONGEST:,} tokens (count them by --model)")
    if (size := measure_file_size(conversations)) > MOST_BYTES:
        faults.append(f"{size / 1e6:,.0f} MB are more than the {MOST_BYTES // 10**6} MB of a file")
    return faults


def find_reserved_words(row: Conversation) -> Iterator[tuple[str, str]]:
    """Yield the role of each turn that holds a special token of the service, with that token."""
    for message in row.messages:
        if "<|" in message.content:
            yield from ((message.role, word) for word in RESERVED if word in message.content)


def estimate_row_tokens(row: Conversation) -> int:
    """Estimate the tokens of a row from its bytes."""
    return TURN + sum(TURN + len(message.content.encode()) // BYTES for message in row.messages)


def encode_file_lines(conversations: Sequence[Conversation]) -> Iterator[bytes]:
    """Encode rows as the lines of the training file."""
    return ((encode_canonical({"messages": row.to_training_dicts()}) + "\n").encode() for row in conversations)


def measure_file_size(conversations: Sequence[Conversation]) -> int:
    """Return the size of the training file in bytes."""
    return sum(map(len, encode_file_lines(conversations)))
