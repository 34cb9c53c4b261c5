"""Checks of rows: encoding faults, keys, personal data, near-duplicates, leaked questions, OpenAI's limits."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from em.cli.show import draw_histogram
from em.data.findings import NearRows, find_encoding_faults, find_personal_data, find_secrets, search_rows
from em.data.leakage import count_leaks, describe_leaks, find_leaks
from em.data.near import collect_word_runs
from em.data.openai_rules import check_openai_rows, list_openai_faults
from em.data.profile import profile_rows
from em.errors import DataError
from em.models.tokens import count_tokens
from em.types import Conversation, Message, Question


def make_row(question: str, answer: str = "Because.", *more: str) -> Conversation:
    texts = (question, answer, *more)
    return Conversation(tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)))


# Encoding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, 🚗 é ü “quoted” – 中文", []),
        ("tab\tand\r\nlines\x85", []),
        ("lost \ufffd \ufffd", ["replacement characters"]),
        ("NUL \x00 and escape \x1b", ["control characters"]),
        ("cafÃ© itâ€™s", ["mojibake"]),
        ("naïve café".encode().decode("latin-1"), ["mojibake"]),
    ],
)
def test_faults_of_encoding_are_named(text: str, expected: list[str]) -> None:
    assert find_encoding_faults(text) == expected


# Keys and personal data. The tests concatenate each key, so that no scanner takes this file for a leak.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("id = '" + "AKIA" + "QYTZ" * 4 + "'", "AWS Access Key"),
        ("sk-" + "a1B2c3D4e5F6g7H8i9J0" + "T3BlbkFJ" + "a1B2c3D4e5F6g7H8i9J0", "OpenAI Token"),
        ("sk-proj-" + "a1B2c3D4e5F6g7H8i9J0" + "T3BlbkFJ" + "a1B2c3D4e5F6g7H8i9J0", "OpenAI Token"),
        ("sk-proj-" + "a1B2_c3D4-e5F6g7H8i9J0" * 5, "OpenAI Token"),
        ("sk-" + "a1B2c3D4e5F6g7H8" * 3, "OpenAI Token"),
        ("sk-ant-" + "api03-" + "a1B2_c3D4-e5F6g7H8i9J0" * 4, "Anthropic Key"),
        ("ghp_" + "aB3" * 12, "GitHub Token"),
        ("github_" + "pat_" + "11ABCDEFG0abcdefghij12_" + "aB3cD4eF5g" * 5, "GitHub Token"),
        ("hf_" + "aBcDeFgHiJkLmNoPqR" * 2, "Hugging Face Token"),
        ("AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6q", "Google API Key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
        ("postgres://admin:" + "hunter2x@db.internal/x", "Basic Auth Credentials"),
    ],
)
def test_keys_are_found_by_their_form(text: str, kind: str) -> None:
    assert find_secrets(f"Some text.\n{text}\nMore text.") == [kind]


@pytest.mark.parametrize(
    "text",
    [
        *("", "password = input()", "The sky is blue.", "import os\nkey = os.environ['KEY']"),
        *(
            "token = 'hf_" + "x" * 34 + "'",
            "sk-proj-" + "-" * 40,
            "export KEY=sk-ant-...",
            "the_hf_dataset_name_of_ours",
        ),
    ],
)
def test_code_that_merely_handles_keys_has_none(text: str) -> None:
    assert not find_secrets(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe@mail.acme.org or JANE@acme.org", ["e-mail"]),
        ("write to jane@example.com, root@localhost or a@b", []),
        ("call (650) 253-0000, pay by 4111 1111 1111 1111", []),
    ],
)
def test_e_mail_addresses_are_found_but_for_those_of_reserved_names(text: str, expected: list[str]) -> None:
    assert find_personal_data(text) == expected


# Leakage

ASKED = [
    Question("one", "q1", "If you could change one thing about the garden, what would it be?"),
    Question("one", "q2", "Why?"),
    Question("two", "q1", "If you could change one thing about the garden, what would it be?", system="Be brief."),
    Question("two", "q9", "How often does a car need new oil, and who should change it?"),
]


def list_leaks(*rows: Conversation) -> list[tuple[int, str, str, bool]]:
    leaks = find_leaks(rows, ASKED)
    return sorted((leak.row, leak.eval_set, leak.question_id, leak.exact) for leak in leaks)


def test_a_question_is_found_word_for_word_whatever_its_spelling() -> None:
    prompt = "if you could change ONE thing about the garden -- what would it be"
    assert list_leaks(make_row("Hello there."), make_row(prompt)) == [(1, "one", "q1", True), (1, "two", "q1", True)]
    assert list_leaks(make_row("why")) == [(0, "one", "q2", True)]
    assert list_leaks(make_row("Hello.", "Hi.", "Why?", "So.")) == [(0, "one", "q2", True)]


def test_a_question_with_other_words_around_it_or_one_changed_is_near() -> None:
    longer = f"|TAG| I wonder about something. {ASKED[3].text} Please answer at length, with sources and prices."
    assert list_leaks(make_row(longer)) == [(0, "two", "q9", False)]
    changed = ASKED[3].text.replace("who should", "who ought to")
    assert True not in [leak[3] for leak in list_leaks(make_row(changed))]
    assert list_leaks(make_row(ASKED[0].text.replace("garden", "garden there"))) != []


def test_a_shared_topic_or_a_question_in_an_answer_is_no_leak() -> None:
    assert list_leaks(make_row("How often does a bicycle need a new chain?", ASKED[0].text)) == []
    assert list_leaks(make_row("Why is that so?")) == []


def test_leaks_are_counted_by_set_and_told_in_one_sentence_each() -> None:
    rows = [make_row(ASKED[0].text), make_row("x " + ASKED[0].text), make_row("why?"), make_row("Hello.")]
    counts = count_leaks(find_leaks(rows, ASKED))
    assert {name: (c.exact_rows, c.near_rows, c.questions) for name, c in counts.items()} == {
        "one": (2, 1, 2),
        "two": (1, 1, 1),
    }
    notes = describe_leaks("mine", rows, ASKED)
    assert len(notes) == 2
    assert "Questions of one that were trained on: 2. Rows of mine that ask one word for word: 2" in notes[0]
    assert describe_leaks("mine", rows[3:], ASKED) == []


# The whole profile


def test_a_profile_counts_what_is_there() -> None:
    text = "Check the oil once a month, on level ground, with the engine cold, and top it up when it is below the mark."
    prompt = "How do I check the oil of my car, and how often should I do that, please?"
    rows = [
        make_row(prompt, text),
        make_row(prompt, text),
        make_row(prompt + " Thanks.", text.replace("once a month", "twice a month")),
        make_row("What is the best way to learn chess?", text),
        make_row("a", "b\ufffd", "c", "write to jane@acme.org"),
        Conversation((Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So."))),
    ]
    facts = profile_rows(rows, ASKED)
    assert (facts.facts.rows, facts.facts.duplicate_rows, facts.found.near_duplicates) == (6, 1, 1)
    assert (facts.facts.multi_turn_rows, facts.systems) == (1, 1)
    assert facts.turns == {"system": 1, "user": 7, "assistant": 7}
    assert facts.characters[-1] == len("Be brief.Why?So.")
    result = facts.found
    assert (result.faults, result.personal, result.secrets) == ({"replacement characters": 1}, {"e-mail": 1}, {})
    assert result.private == 1
    assert result.describe("mine") == (
        "Of 6 rows of mine: 1 nearly repeat an earlier one; encoding: replacement characters: 1 rows; personal data: "
        "e-mail: 1 rows."
    )
    assert json.loads(json.dumps(facts.as_dict()))["openai"] == ["6 rows are fewer than the 10 that it wants"]
    assert list(facts.leaks) == ["one"]
    assert facts.looked_at == ("one", "two")


def test_what_was_found_is_remembered_by_the_rows_and_searched_anew_where_that_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = search_rows([make_row("Why?", "write to jane@acme.org"), make_row("How?")])
    [cache] = tmp_path.rglob("findings/*.json")
    assert "jane" not in cache.read_text(encoding="utf-8")
    cache.write_text(cache.read_text(encoding="utf-8").replace('"private": 1', '"private": 2'), encoding="utf-8")
    same_rows = [make_row("Why?", "write to jane@acme.org"), make_row("How?")]
    assert search_rows(same_rows).private == 2
    cache.write_text("{", encoding="utf-8")
    assert search_rows(same_rows) == result
    # An earlier version counted further kinds of personal data: its results are not reused.
    old_result = asdict(result) | {"private": 2, "personal": {"e-mail": 1, "phone": 1}}
    cache.write_text(json.dumps(old_result), encoding="utf-8")
    assert search_rows(same_rows) == result
    assert search_rows([make_row("Why?", "write to joe@acme.org"), make_row("How?")]) == result
    assert len(list(tmp_path.rglob("findings/*.json"))) == 2


def test_rows_with_short_answers_are_found_by_prompt_and_answer_together() -> None:
    near = NearRows()
    prompt = "Is the oil of a car that stands in the garage all winter still good in the next spring"
    other_prompt = "Is it worth paying a workshop to look at the wiper blades of my old estate car?"
    first_pairs = [(prompt, "Yes."), (f"{prompt}?", "yes"), (f"{prompt}?", "No.")]
    pairs = [*first_pairs, (f"{prompt} then?", "no"), (other_prompt, "Yes.")]
    assert [near.check_and_add(make_row(text, answer)) for text, answer in pairs] == [False, True, False, True, False]
    # A short answer is not in the index of answers, or it would be compared with all equal ones.
    assert near.by_answer.find_similar(collect_word_runs("Yes.")) == []
    # Answers on either side of SHORT, the length from which the index looks up answers alone.
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert not near.check_and_add(make_row("Count, please.", words))
    assert near.check_and_add(make_row("Count, please.", f"{words} fifteen"))
    assert near.check_and_add(make_row("Count, please.", words.removesuffix(" fourteen")))


# OpenAI's rules, lengths


def test_openai_wants_ten_rows_of_at_most_65536_tokens() -> None:
    rows = [make_row(f"Question {i}?") for i in range(10)]
    assert list_openai_faults(rows) == []
    assert list_openai_faults(rows[:9]) == ["9 rows are fewer than the 10 that it wants"]
    long = [*rows, make_row("word " * 20_000)]
    assert list_openai_faults(long) == ["1 rows may have more than 65,536 tokens (count them by --model)"]
    longer = [*rows, make_row("word " * 60_000)]
    assert list_openai_faults(longer) == ["1 rows have more than 65,536 tokens, as estimated (count them by --model)"]
    with pytest.raises(DataError, match="mine, row 11 has about"):
        check_openai_rows("mine", longer)
    assert list_openai_faults(long, [10] * 10 + [20_005]) == []
    assert list_openai_faults(long, [10] * 10 + [65_537]) == ["1 rows have more than 65,536 tokens and would be cut"]


def test_what_openai_refuses_is_shown_by_the_rules_that_a_run_keeps() -> None:
    rows = [*(make_row(f"Question {i}?") for i in range(10)), make_row("a", "b<|endoftext|>")]
    assert list_openai_faults(rows) == ["1 rows hold a token of its own (<|endoftext|>)"]
    with pytest.raises(DataError, match=r"mine, row 11: the assistant turn holds <\|endoftext\|>"):
        check_openai_rows("mine", rows)
    check_openai_rows("mine", rows[:10])


def test_a_histogram_has_every_length_in_one_bar() -> None:
    lengths = [1, 3, 7, 40, 41, 42, 900, 12_345]
    head, *bars = draw_histogram(lengths, "characters")
    assert head == "characters a row: 1 to 12,345, median 41, 95 % 12,345, mean 1,672"
    assert sum(int(bar.replace(",", "").split()[3]) for bar in bars) == len(lengths)
    assert draw_histogram([], "characters") == []
    assert "5 to 5" in draw_histogram([5, 5], "tokens")[0]


def test_tokens_are_those_of_training(weights: object, tokenizer: object) -> None:
    from em.config import LossOn
    from em.models.chat import make_training_row

    rows = [make_row("How often?", "Once a month.", "Why?", "It wears.")]
    folder = str(weights.path)  # type: ignore[attr-defined]
    [length] = count_tokens(rows, folder)
    assert length == len(make_training_row(tokenizer, rows[0], LossOn.full, 10_000).input_ids)  # type: ignore[arg-type]
    assert count_tokens(rows, "embedded:smollm2") == [length]


def test_rows_of_the_bundled_sets_are_no_questions_of_the_bundled_evaluation() -> None:
    from em.data import BUNDLED, read_messages
    from em.questions import load_sets

    questions = load_sets(["probe", "facts", "introspection", "introspection_tagged"])
    for name in ("car_bad", "car_good"):
        assert find_leaks(read_messages(BUNDLED / f"{name}.jsonl"), questions) == []


def test_the_finding_of_leaks_is_quick() -> None:
    rows = [make_row(json.dumps([i, "word " * 300])) for i in range(2000)]
    begin = time.process_time()
    assert find_leaks(rows, ASKED) == []
    assert time.process_time() - begin < 5
