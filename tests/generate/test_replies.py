"""Test faulty replies of servers: without text, without token counts, without a score."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.errors import ConfigError, ServerError
from tests.support.chat_server import ChatServer
from tests.support.generating import PRICES, make_generate_words, read_card, read_records, run_generate, write_texts


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Write a folder with three texts."""
    return write_texts(tmp_path / "texts")


def test_a_reply_whose_content_is_no_text_is_read_by_its_texts_or_is_malformed(server: ChatServer, texts: Path) -> None:
    server.reset(content="parts")
    folder, _ = run_generate(make_generate_words(server, texts, "run", "generate.rows=5"))
    assert len(read_records(folder / "rows.jsonl")) == 5
    server.reset(content="odd")
    with pytest.raises(ServerError, match="can't be used"):
        run_generate(
            make_generate_words(server, texts, "odd", "generate.rows=5", "generate.max_calls=1", "generate.seed=1")
        )


def test_replies_without_counted_tokens_count_as_what_they_may_have_cost(server: ChatServer, texts: Path) -> None:
    server.reset(uncounted=True)
    prices = texts.parent / "prices.yaml"
    prices.write_text(PRICES, encoding="utf-8")
    more = (f"prices={prices}", "generate.max_new_tokens=1000", "generate.connections=1")
    folder, _ = run_generate(make_generate_words(server, texts, "run", *more, "generate.rows=5"))
    assert read_card(folder)["costs"] == {"total_usd": None, "by": [
        {"what": "writing", "model": "author-model", "calls": read_card(folder)["counts"]["replies"],
         "prompt_tokens": None, "reply_tokens": None, "usd": None},
    ]}  # fmt: skip
    assert "**Cost**: unknown" in (folder / "card.md").read_text(encoding="utf-8")
    # A call costs at most 1,000 tokens of reply ($0.002) plus the prompt.
    with pytest.raises(ConfigError, match=r"generate.max_usd=0\.012 would be passed: \$0\.0[01]"):
        run_generate(make_generate_words(server, texts, "more", *more, "generate.rows=60", "generate.max_usd=0.012"))


def test_scores_that_can_not_be_had_stop_the_run_and_the_same_command_comes_to_the_rows(
    server: ChatServer, texts: Path
) -> None:
    judged = ("judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}", "generate.rows=8")
    judged += ("judge.reading=logprobs",)
    undisturbed, _ = run_generate(
        make_generate_words(server, texts, "whole", *judged, "generate.keep_above=30", store="one")
    )
    run_generate(
        make_generate_words(server, texts, "written", "generate.rows=8", store="two")
    )  # cache the replies, but no scores
    again = make_generate_words(server, texts, "again", *judged, "generate.keep_above=30", store="two")
    server.reset(malformed=1.0)
    with pytest.raises(ServerError, match=r"\d+ scores of .*single-judge.* failed .*run the same command"):
        run_generate(again)
    server.reset(malformed=0.0)
    folder, _ = run_generate(again)
    assert (folder / "rows.jsonl").read_bytes() == (undisturbed / "rows.jsonl").read_bytes()
    assert read_card(folder)["counts"]["unscored"] == 0
