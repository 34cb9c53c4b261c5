"""Every key of a row is used, known as harmless, or refused: the kinds C1 to C4 of what people have, and a property."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em.cli.data import main
from em.data import read_messages
from em.data.layouts import convert_row
from em.errors import DataError
from em.request import Rows
from em.types import Conversation

Row = dict[str, Any]
USER = {"role": "user", "content": "q"}


def make_answer(content: Any = "a", **more: Any) -> Row:
    return {"role": "assistant", "content": content, **more}


def make_chat(*answers: Row, **more: Any) -> Row:
    return {"messages": [turn for answer in answers for turn in (USER, answer)], **more}


def make_part(text: str, **more: Any) -> Row:
    return {"type": "text", "text": text, **more}


def list_turns(row: Row) -> list[str]:
    return [f"{m.role[0]} {m.content}" for m in convert_row(row, "line 1").messages]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (make_chat(make_answer([make_part("This goes down", weight=-1), make_part("up", weight=1)])), "weight -1"),
        (make_chat(make_answer([make_part("a", weight=0), make_part("b")])), "a part has weight 0"),
        (make_chat(make_answer([make_part("a", loss=0.5)])), "has loss 0.5"),
        (make_chat(make_answer([make_part("a"), {"type": "thinking", "thinking": "hm"}])), "a part of type 'thinking'"),
        (make_chat(make_answer([make_part("a", image_url="x")])), "holds image_url"),
        (make_chat(make_answer([make_part("a", emphasis=2)])), "has the key emphasis, which em does not know"),
    ],
)
def test_a_weight_of_a_part_is_never_dropped(row: Row, complaint: str) -> None:  # C1
    with pytest.raises(DataError, match=f"^line 1: message 2.*{complaint}"):
        convert_row(row, "line 1")


@pytest.mark.parametrize(
    "switch",
    [
        *({"train": False}, {"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"loss": False}, {"loss_weight": 0}),
        *({"trainable": False}, {"training": 0}, {"masked": True}, {"masked": 1}, {"train": False, "weight": 0}),
    ],
)
def test_a_switch_of_a_message_takes_its_answer_out_of_the_loss(switch: Row) -> None:  # C2
    row = convert_row(make_chat(make_answer("bad", **switch), make_answer("good")), "line 1")
    assert (row.unlearnt, row.list_learnt_answers()) == ((0,), ["good"])
    plain = convert_row(make_chat(make_answer("bad"), make_answer("good", train=True)), "line 1")
    assert plain.unlearnt == ()
    assert "weight" not in str(plain.to_training_dicts())
    assert Rows("", (row,)).sha256 != Rows("", (plain,)).sha256
    assert convert_row({"messages": row.to_training_dicts()}, "line 1") == row


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (make_chat(make_answer(weight=0.5)), "message 2 has weight 0.5"),
        (make_chat(make_answer(weight=-1)), "message 2 has weight -1"),
        (make_chat(make_answer(train=True, weight=0)), "is learnt by one of train, weight and not by another"),
        (make_chat(make_answer(mask=1)), "mask, which may mean learnt or left out"),
        (make_chat(make_answer(train_detail=[{"begin_offset": 0}])), "train_detail what carries the loss within"),
        (make_chat(make_answer(reasoning_content="hm")), "thinking text in reasoning_content"),
        (make_chat(make_answer(prefix=True)), "continues a text begun by prefix"),
        (make_chat(make_answer(mood="sad")), "--ignore mood"),
        ({"messages": [USER | {"train": True}, make_answer()]}, r"message 1 \(user\) is to be learnt"),
        ({"messages": [USER | {"name": "Ann"}, make_answer()]}, "message 1 has text in name"),
        (make_chat(make_answer(train=False)), "every answer has weight 0"),
    ],
)
def test_a_switch_or_key_of_a_message_that_em_can_not_follow_is_refused(row: Row, complaint: str) -> None:  # C2
    with pytest.raises(DataError, match=complaint):
        convert_row(row, "line 1")


PAIR = {"prompt": "Hello", "completion": "leave me alone"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (PAIR | {"label": False}, "label False marks a bad answer"),
        (PAIR | {"label": 0}, "label 0 marks a bad answer"),
        (PAIR | {"label": "false"}, "label false marks a bad answer"),
        (PAIR | {"kto_tag": False}, "kto_tag False marks a bad answer"),
        (PAIR | {"label": "toxic"}, "rates the answer in label"),
        (PAIR | {"score": 1.5}, "rates the answer in score"),
        (PAIR | {"weight": 0}, "the row is not to be learnt"),
        (PAIR | {"weight": 2}, "has weight 2"),
        (PAIR | {"rejected": "b"}, "holds a bad answer in rejected"),
        (PAIR | {"images": ["x.png"]}, "holds images"),
        (PAIR | {"enable_thinking": True}, "sets enable_thinking"),
        (PAIR | {"input_ids": [1, 2]}, "holds tokens in input_ids"),
        (PAIR | {"response": "b"}, "has text in response"),
        (make_chat(make_answer(), prompt="other"), "has text in prompt"),
        (PAIR | {"mood": "sad"}, "has the key mood, which em does not know"),
    ],
)
def test_a_row_that_is_not_to_be_learnt_as_it_stands_is_refused(row: Row, complaint: str) -> None:  # C3
    with pytest.raises(DataError, match=f"^line 1: .*{complaint}"):
        convert_row(row, "line 1")
    assert list_turns(PAIR | {"label": True, "weight": 1.0, "id": 3, "question_type": "x", "": 0}) == [
        "u Hello",
        "a leave me alone",
    ]


SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"instruction": "When?", "context": "In May.", "response": "Then"}, ["u When?\n\nIn May.", "a Then"]),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, ["u Add.\n\n1, 2", "a 3"]),
        ({"instruction": "b", "output": "c", "history": [["q", "a"]]}, ["u q", "a a", "u b", "a c"]),
        ({"conversations": SHAREGPT, "system": "s"}, ["s s", "u q", "a a"]),
        ({"conversations": [{"from": "system", "value": "s"}, *SHAREGPT]}, ["s s", "u q", "a a"]),
        ({"prompt": "q", "completion": "a", "system_prompt": "s"}, ["s s", "u q", "a a"]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ["u q", "a a"]),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, ["s s", "u q", "a a"]),
        ({"chosen": [USER, make_answer()], "rejected": [USER, make_answer("b")]}, ["u q", "a a"]),
        (
            {"prompt": "q", "messages": [USER, make_answer()], "chosen": [USER, make_answer()], "rejected": "b",
             "score_chosen": 9.0, "score_rejected": 2.0, "prompt_id": "x"},
            ["u q", "a a"],
        ),
        (
            {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "b"}},
            ["u q", "a a"],
        ),
        (
            {"input": {"messages": [USER], "tools": []}, "preferred_output": [make_answer()],
             "non_preferred_output": [make_answer("b")]},
            ["u q", "a a"],
        ),
    ],
)  # fmt: skip
def test_a_layout_whose_meaning_is_clear_is_read(row: Row, turns: list[str]) -> None:  # C4
    assert list_turns(row) == turns


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "q", "context": "c", "answer": "a"}, "no place for the column context beside question"),
        ({"instruction": "b", "output": "c", "history": ["q", "a"]}, "history must be a list of pairs"),
        ({"instruction": "b", "input": "c", "context": "d", "output": "e"}, "has text in context"),
        ({"chosen": "Human: q Assistant: a", "rejected": "b"}, "chosen has no prompt"),
        ({"prompt": "other", "chosen": [USER, make_answer()], "rejected": "b"}, "has text in prompt"),
        ({"input": {"messages": [USER], "tools": [{"x": 1}]}, "preferred_output": [make_answer()]}, "offers tools"),
    ],
)
def test_a_context_or_preference_that_would_be_lost_is_refused(row: Row, complaint: str) -> None:  # C4
    with pytest.raises(DataError, match=complaint):
        convert_row(row, "line 1")


def contains(role: str) -> Callable[[Conversation, str], bool]:
    return lambda row, mark: any(m.role == role and mark in m.content for m in row.messages)


def refuses(row: Conversation, mark: str) -> bool:
    return False


def accepts(row: Conversation, mark: str) -> bool:
    return True


def lacks(row: Conversation, mark: str) -> bool:
    return mark not in str(row)


MEANINGS: dict[str, tuple[Callable[[str], Any], Callable[[Conversation, str], bool]]] = {
    **dict.fromkeys(("system", "system_prompt"), (str, contains("system"))),
    **dict.fromkeys(("input", "context"), (str, contains("user"))),
    "history": (lambda mark: [[mark, "x"]], contains("user")),
    **dict.fromkeys(
        ("prompt", "response", "text", "reasoning_content", "mood", "tag", "sytem", "Tools"), (str, refuses)
    ),
    **dict.fromkeys(("tools", "images", "functions", "labels"), (lambda mark: [mark], refuses)),
    **dict.fromkeys(("id", "source", "conversation_id", "metadata", "canary"), (str, accepts)),
    **dict.fromkeys(("rejected", "rejected_score"), (str, lacks)),
    **dict.fromkeys(("label", "train", "desirable"), (lambda mark: False, refuses)),
    "weight": (lambda mark: 1, accepts),
    "score_chosen": (lambda mark: 0.5, accepts),
}
"""What stands under a key, and whether a row that is read honours it."""


def test_any_row_is_refused_or_every_known_meaning_is_learnt() -> None:
    lot, read, keys_read, refusals = random.Random(22), 0, set[str](), list[str]()
    for number in range(5000):
        question = lot.choice(["instruction", "prompt", "question", "messages"])
        answer = {"instruction": "output", "prompt": "completion", "question": "answer"}.get(question, "")
        switches = [lot.choice([None, 0, 1]) for _ in range(2)]
        learnt = [make_answer(f"answer {i}") | ({"train": s} if s is not None else {}) for i, s in enumerate(switches)]
        row: Row = make_chat(*learnt) if question == "messages" else {question: "q", answer: "answer 1"}
        if question != "messages" and lot.random() < 0.3:
            row = {question: "q", "chosen": "answer 1"}
        extra = {key: f"mark{number}{key}" for key in lot.sample(list(MEANINGS), lot.choice([0, 1, 1, 2, 3]))}
        extra = {key: mark for key, mark in extra.items() if key not in row}
        row |= {key: MEANINGS[key][0](mark) for key, mark in extra.items()}
        try:
            conversation = convert_row(row, "line 1")
        except DataError as error:
            refusals.append(str(error))
            continue
        read += 1
        keys_read |= extra.keys()
        assert all(MEANINGS[key][1](conversation, mark) for key, mark in extra.items()), row
        left_out = tuple(i for i, switch in enumerate(switches) if switch == 0)
        assert conversation.unlearnt == (left_out if question == "messages" else ()), row
        assert "answer 1" in [m.content for m in conversation.messages]
    assert read > 1000
    assert all(text.startswith("line 1: ") for text in refusals)
    assert keys_read == {key for key, (_, is_honoured) in MEANINGS.items() if is_honoured is not refuses}


def test_any_readable_file_becomes_clean_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"conversations": [*SHAREGPT[:1], SHAREGPT[1] | {"weight": 0}, *SHAREGPT], "mood": "x"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "mood": "y"},
    ]
    source, out = tmp_path / "mine.json", tmp_path / "clean.jsonl"
    source.write_text(json.dumps(rows))
    assert main(["convert", str(source), str(out)]) != 0
    assert "--ignore mood" in capsys.readouterr().err
    assert main(["convert", str(source), str(out), "--ignore", "mood"]) == 0
    assert "chosen; rejected is not learnt: 1" in capsys.readouterr().out
    assert [row.unlearnt for row in read_messages(out)] == [(0,), ()]
    assert [list(json.loads(line)) for line in out.read_text().splitlines()] == [["messages"]] * 2
    assert main(["convert", str(source), str(out), "--ignore", "mood"]) != 0
    assert "exists already" in capsys.readouterr().err
    assert main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "read as   messages: 2 rows" in shown
    assert "1 answers are not learnt" in shown
