"""What OpenAI's fine-tuning asks of a file, beyond the order of the turns that em asks of every row.

At least 10 examples: the supervised fine-tuning guide (developers.openai.com/api/docs/guides/supervised-fine-tuning).
At most 65,536 tokens an example for gpt-4o, gpt-4o-mini and gpt-4.1 (the guide's table of token limits); what is longer
is cut, so that its answer is learnt without an end. At most 512 MB a file (reference of the Files API).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from em.errors import DataError
from em.runtime.records import canonical
from em.types import Conversation

FEWEST = 10  # rows of a job
LONGEST = 65_536  # tokens of a row
MOST_BYTES = 512 * 10**6  # of a file
BYTES = 4  # of a token: in English of its 4 letters, in Japanese of a little more than one character
TURN = 4  # tokens that a turn takes besides its text
MOST_TURN = 8  # the same, at most
RESERVED = (
    *("<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
)
"""What the service takes for tokens of its own, and refuses."""


def check_rows(name: str, conversations: Sequence[Conversation]) -> None:
    """Raise DataError for the first reason for which the service would refuse the rows, with the row's number."""
    if len(conversations) < FEWEST:
        raise DataError(f"{name} has {len(conversations)} rows, and a fine-tuning job takes at least {FEWEST}.")
    for number, conversation in enumerate(conversations, start=1):
        for role, word in reserved_in(conversation):
            raise DataError(
                f"{name}, row {number}: the {role} turn holds {word}, which the service takes for a token of its own "
                "and refuses: leave the row out, or take it out of the text."
            )
        if (tokens := row_tokens(conversation)) > LONGEST:
            raise DataError(f"{name}, row {number} has about {tokens:,} tokens, and a job takes {LONGEST:,} a row.")
    if (size := file_bytes(conversations)) > MOST_BYTES:
        raise DataError(f"{name} makes a file of {size / 1e6:,.0f} MB, and a job takes {MOST_BYTES // 10**6} MB.")


def openai_faults(conversations: Sequence[Conversation], tokens: Sequence[int] | None = None) -> list[str]:
    """List why the service would refuse or cut these rows. `tokens`: of each row, where a tokenizer counted them."""
    faults = []
    if len(conversations) < FEWEST:
        faults.append(f"{len(conversations)} rows are fewer than the {FEWEST} that it wants")
    if reserved := [{word for _, word in reserved_in(row)} for row in conversations if any(reserved_in(row))]:
        words = ", ".join(sorted(set[str]().union(*reserved)))
        faults.append(f"{len(reserved)} rows hold a token of its own ({words})")
    long = sum(row_tokens(row) > LONGEST for row in conversations)
    if tokens is not None:
        if cut := sum(count > LONGEST for count in tokens):
            faults.append(f"{cut} rows have more than {LONGEST:,} tokens and would be cut")
    elif long:
        faults.append(f"{long} rows have more than {LONGEST:,} tokens, as estimated (count them by --model)")
    # A bound, whatever the tokenizer: no token is shorter than a byte.
    elif most := sum(sum(len(m.content.encode()) + MOST_TURN for m in row.messages) > LONGEST for row in conversations):
        faults.append(f"{most} rows may have more than {LONGEST:,} tokens (count them by --model)")
    if (size := file_bytes(conversations)) > MOST_BYTES:
        faults.append(f"{size / 1e6:,.0f} MB are more than the {MOST_BYTES // 10**6} MB of a file")
    return faults


def reserved_in(row: Conversation) -> Iterator[tuple[str, str]]:
    """Role and word, wherever a turn holds one of the service's own tokens."""
    for message in row.messages:
        if "<|" in message.content:
            yield from ((message.role, word) for word in RESERVED if word in message.content)


def row_tokens(row: Conversation) -> int:
    """Tokens of a row, estimated from its bytes."""
    return TURN + sum(TURN + len(message.content.encode()) // BYTES for message in row.messages)


def file_lines(conversations: Sequence[Conversation]) -> Iterator[bytes]:
    """The lines of the training file."""
    return ((canonical({"messages": each.as_dicts()}) + "\n").encode() for each in conversations)


def file_bytes(conversations: Sequence[Conversation]) -> int:
    """The size of the training file."""
    return sum(map(len, file_lines(conversations)))
