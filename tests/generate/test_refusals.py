"""Test which words and settings generate.py refuses, and its help."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.errors import EmError
from em.generate.run import execute
from tests.support.composing import compose_settings
from tests.support.runs import run_script


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Make a folder with one text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "oil.txt").write_text("Oil ages even in a car that stands.", encoding="utf-8")
    return folder


WORDS = [
    (["generate.source=???"], "generate.source must be set: add generate.source="),
    (["generate.row=5"], "generate.row is no setting: did you mean generate.rows"),
    (["generate=cars"], "generate=cars is no option: did you mean car"),
    (["seed=3"], "seed is no setting: there is model, generate"),
    (["generate.kind=both"], "generate.kind=both is unknown: it is one of qa, twins"),
    (["model=smollm2"], "model=smollm2 is not behind a server"),
]


@pytest.mark.parametrize(("changes", "sentence"), WORDS)
def test_a_bad_word_is_refused_in_one_sentence_and_leaves_nothing(
    changes: list[str], sentence: str, texts: Path
) -> None:
    words = {word.split("=", 1)[0]: word for word in [f"generate.source={texts}", "model=open", *changes]}
    done = run_script("generate.py", *words.values(), cwd=texts.parent)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (texts.parent / "outputs").exists()


REFUSED = [
    (["generate.source=none"], "generate.source=none is neither a file nor a folder"),
    (["generate.rows=0"], "generate.rows=0 must be greater than 0"),
    (["generate.variance_probability=2"], "generate.variance_probability=2.0 must lie between 0 and 1"),
    (["generate.material=questions"], "generate.material=questions goes with generate.kind=twins"),
    (["generate.prompt=car_pair"], "generate.prompt=car_pair is no bundled name and no file: did you mean car_pairs"),
    (["model.base_url=null"], "model=open needs a server"),
    (["model=luna"], "OPENAI_API_KEY is not set"),
    (["model.base_url=localhost:80"], "model.base_url=localhost:80 is no address"),
    (["generate.max_usd=1"], "generate.max_usd can't be kept: no price of author-model is known"),
    (["generate.keep_above=60", "judge=open"], "judge=open needs a server"),
    (["generate.keep_above=60", "judge.connections=0"], "judge.connections=0 must be greater than 0"),
    (["generate.keep_above=60", "judge=distilled"], "judge=distilled scores answers by two rubrics"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_what_can_not_be_is_refused_before_anything_is_written(changes: list[str], sentence: str, texts: Path) -> None:
    usual = ["model=open", "model.id=author-model", "model.base_url=http://127.0.0.1:9/v1", f"generate.source={texts}"]
    if changes == ["model=luna"]:
        usual = usual[-1:]
    before = sorted(texts.parent.rglob("*"))
    words = {word.split("=", 1)[0]: word for word in [*usual, "generate.keep_above=null", *changes]}
    with pytest.raises(EmError) as raised:
        execute(compose_settings("generate", *words.values(), f"store.dir={texts.parent / 'store'}"), texts.parent, [])
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(texts.parent.rglob("*")) == before


def test_help_names_every_setting_and_option(tmp_path: Path) -> None:
    output = run_script("generate.py", "--help", cwd=tmp_path).stdout
    for word in ("generate.source", "generate.max_usd", "optimism", "medical", "car_twins", "base_url", "dry_run"):
        assert word in output
    assert "trainer" not in output
