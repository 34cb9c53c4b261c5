"""Values of the command line that Hydra can't parse, or takes for numbers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from em.cli.sentences import explain_quoting, keep_texts
from tests.cli.test_errors import run_refused
from tests.support.composing import compose_settings

PATHS = (
    *(
        "runs/lr=1e-5/x.jsonl",
        "it's.jsonl",
        "é/x.jsonl",
        "[x].jsonl",
        "x].jsonl",
        "a,b=c.jsonl",
        "~/x.jsonl",
        "x(1).jsonl",
    ),
    *("a#b", "a;b", "a&b!", "<t>", "{a}", '"a', 'say "hi"', "back\\", '\\"', "日本.jsonl", "a = b/[c], d's.jsonl"),
)


@pytest.mark.parametrize("path", PATHS)
def test_the_quoting_to_type_gives_the_value(path: str) -> None:
    sentence = explain_quoting(f"data.path={path}", "train")
    assert sentence.startswith(f"data.path={path} has characters that need quotes: write ")
    [typed] = shlex.split(sentence.partition(": write ")[2].removesuffix("."))
    assert OverridesParser.create().parse_override(typed).value() == path


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.path=runs/lr=1e-5/x.jsonl", """write 'data.path="runs/lr=1e-5/x.jsonl"'."""),
        ("data.path=[x]", """write 'data.path="[x]"'."""),
        ("data.path=a,b.jsonl", """has a comma: write 'data.path="a,b.jsonl"', or add -m"""),
        ("eval.sets=[a=b,c]", """write 'eval.sets=["a=b","c"]'."""),
        ("data.path", "data.path is no setting: write KEY=VALUE"),
    ],
)
def test_hydras_errors_become_a_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    error = run_refused(["data=file", word, f"store.dir={tmp_path.parent / 'store'}"], tmp_path)
    assert sentence in error
    assert "hydra.cc" not in error


@pytest.mark.parametrize("text", ["7e10", "123456", "1_000", "0123", "1.0", ".5", "inf", "NaN", "true", "-1", "v1.0"])
def test_names_that_look_like_numbers_stay_texts(text: str) -> None:
    words = [f"{key}={text}" for key in ("model.revision", "model.id", "judge.model", "data.path", "prices", "answers")]
    settings: Any = compose_settings("evaluate", "data=file", "judge=local", *keep_texts(words, "evaluate"))
    model, judge = settings.model, settings.judge
    values = (model.revision, model.id, judge.model, settings.data.path, settings.prices, settings.answers)
    assert values == (text,) * 6


def test_other_words_stay_as_they_are() -> None:
    words = [
        "seed=1",
        "trainer.epochs=1e0",
        "model=7b",
        "trainer.batch_size=1_0",
        "-m",
        "eval.sets=[1_0]",
        "force=true",
    ]
    assert keep_texts(words, "train") == words
    assert keep_texts(["model.revision=7e10,main"], "train") == ['model.revision="7e10",main']
