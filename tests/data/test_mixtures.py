"""Mixtures: counts computed by hand, drawn rows, refused configs, and the options as users type them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from em.config import BundledData, DataConfig, FileData, MixtureData, NoData
from em.data import load_rows
from em.data.draw import count_row_facts
from em.data.mixtures import apportion
from em.errors import ConfigError, DataError, MissingFile
from em.request import Rows
from em.runtime.records import to_jsonable
from tests.cli.test_conf import compose_settings
from tests.support.runs import run_script


def make_file_data(folder: Path, name: str, pairs: Sequence[tuple[str, str]]) -> FileData:
    """Write one-turn chats to a file; return its config."""
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileData(name=name, path=str(path))


def make_numbered_file(folder: Path, name: str, count: int) -> FileData:
    """Make a set of `count` rows that differ from those of any other name."""
    return make_file_data(folder, name, [(f"{name} {i}", f"answer {i}") for i in range(count)])


def make_mixture(
    limit: int | None = None, drop: bool = False, weights: object = None, **parts: DataConfig
) -> MixtureData:
    """Make a mixture; `weights` is a dictionary by part."""
    by_part = dict(weights) if isinstance(weights, dict) else {}
    return MixtureData(name="mix", limit=limit, parts=dict(parts), weights=by_part, drop_duplicates=drop)


def list_first_turns(rows: Rows) -> list[str]:
    """List the first turn of each row."""
    return [c.messages[0].content for c in rows.conversations]


@pytest.fixture
def ten(tmp_path: Path) -> FileData:
    return make_numbered_file(tmp_path, "ten", 10)


@pytest.fixture
def six(tmp_path: Path) -> FileData:
    return make_numbered_file(tmp_path, "six", 6)


# Counts


@pytest.mark.parametrize(
    ("total", "weights", "counts"),
    [
        (4000, ["0.25", "0.75"], [1000, 3000]),
        (100, ["0.29", "0.71"], [29, 71]),  # 0.29 * 100 is 28.999… in floats
        (10, ["0.5", "0.5"], [5, 5]),
        (11, ["0.5", "0.5"], [6, 5]),  # equal remainders: the first
        (10, ["0.34", "0.33", "0.33"], [4, 3, 3]),
        (10, ["0.15", "0.15", "0.7"], [2, 1, 7]),  # 1.5, 1.5, 7
        (10, ["0.16", "0.17", "0.67"], [1, 2, 7]),  # 1.6, 1.7, 6.7: 8 whole, and the two largest remainders
        (5, ["0", "1"], [0, 5]),
        (0, ["0.5", "0.5"], [0, 0]),
    ],
)
def test_shares_are_rounded_by_largest_remainder(total: int, weights: list[str], counts: list[int]) -> None:
    shares = {str(i): Fraction(weight) for i, weight in enumerate(weights)}
    assert list(apportion(total, shares).values()) == counts


def test_without_numbers_all_rows_of_all_parts_are_used(ten: FileData, six: FileData) -> None:
    rows = load_rows(make_mixture(a=ten, b=six), 0)
    assert rows.parts == (("a", 10), ("b", 6))
    assert list_first_turns(rows) == [f"ten {i}" for i in range(10)] + [f"six {i}" for i in range(6)]


def test_parts_have_limits_of_their_own(ten: FileData, six: FileData) -> None:
    assert load_rows(make_mixture(a=replace(ten, limit=3), b=six), 0).parts == (("a", 3), ("b", 6))
    assert load_rows(make_mixture(a=replace(ten, limit=3), b=replace(six, limit=1)), 0).parts == (("a", 3), ("b", 1))


@pytest.mark.parametrize(
    ("limit", "weights", "counts"),
    [
        (8, {"a": 0.25, "b": 0.75}, (2, 6)),
        (8, {"a": 0.25}, (2, 6)),  # one part may have no weight: the rest
        (8, {"a": 0.25, "b": None}, (2, 6)),
        (8, {"b": 0.75, "a": 0.25}, (2, 6)),
        (6, {"a": 0.0, "b": 1.0}, (0, 6)),
        (7, {"a": 0.5, "b": 0.5}, (4, 3)),
        (8, {}, (5, 3)),  # without weights in the proportion of the parts, 10 to 6
        (None, {"a": 0.5, "b": 0.5}, (6, 6)),
        (None, {"a": 0.6, "b": 0.4}, (9, 6)),  # 6 / 0.4 rows in all
        (None, {"a": 0.8, "b": 0.2}, (10, 2)),  # 10 / 0.8 is 12.5, so 12: 9.6 and 2.4
        (None, {"a": 1.0, "b": 0.0}, (10, 0)),
        (None, {"a": 0.333, "b": 0.666}, (3, 6)),  # 0.999 in all
    ],
)
def test_weights_share_the_limit_or_as_many_rows_as_there_are(
    ten: FileData, six: FileData, limit: int | None, weights: dict[str, float | None], counts: tuple[int, int]
) -> None:
    rows = load_rows(make_mixture(limit, weights=weights, a=ten, b=six), 0)
    assert rows.parts == (("a", counts[0]), ("b", counts[1]))
    assert len(rows.conversations) == sum(counts)


def test_a_limit_keeps_the_proportions_of_limited_parts(ten: FileData, six: FileData) -> None:
    parts = {"a": replace(ten, limit=4), "b": replace(six, limit=4)}
    assert load_rows(make_mixture(6, **parts), 0).parts == (("a", 3), ("b", 3))
    assert load_rows(make_mixture(8, **parts), 0) == load_rows(make_mixture(**parts), 0)


def test_shares_as_typed_of_three_equal_parts_need_not_be_exact(tmp_path: Path) -> None:
    parts = {name: make_numbered_file(tmp_path, name, 33) for name in ("a", "b", "c")}
    thirds = dict.fromkeys(parts, 0.33)
    assert load_rows(make_mixture(weights=thirds, **parts), 0).parts == (("a", 33), ("b", 33), ("c", 33))
    assert load_rows(make_mixture(10, weights=thirds, **parts), 0).parts == (("a", 4), ("b", 3), ("c", 3))


# Which rows


def test_a_part_gives_the_rows_that_its_set_gives_by_itself(ten: FileData, six: FileData) -> None:
    rows = load_rows(make_mixture(10, weights={"a": 0.7, "b": 0.3}, a=ten, b=six), 3)
    alone = [*load_rows(replace(ten, limit=7), 3).conversations, *load_rows(replace(six, limit=3), 3).conversations]
    assert list(rows.conversations) == alone


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("seed", [0, 5])
def test_a_smaller_mixture_is_a_subset_of_a_larger_one(tmp_path: Path, drop: bool, seed: int) -> None:
    ten = make_file_data(tmp_path, "ten", [(f"q {i % 8}", "a") for i in range(10)])
    six = make_file_data(tmp_path, "six", [(f"q {i}", "a") for i in range(5, 11)])
    before: dict[str, int] = {}
    for limit in range(2, 9):
        rows = load_rows(make_mixture(limit, drop, {"a": 0.6, "b": 0.4}, a=ten, b=six), seed)
        now = {text: list_first_turns(rows).count(text) for text in list_first_turns(rows)}
        assert all(now.get(text, 0) >= count for text, count in before.items())
        before = now


def test_the_draw_hangs_on_the_seed_and_on_nothing_else(ten: FileData, six: FileData) -> None:
    config = make_mixture(8, weights={"a": 0.5, "b": 0.5}, a=ten, b=six)
    assert load_rows(config, 1) == load_rows(config, 1)
    assert len({load_rows(config, seed).sha256 for seed in range(5)}) == 5
    turned = make_mixture(8, weights={"a": 0.5, "b": 0.5}, b=six, a=ten)
    assert sorted(list_first_turns(load_rows(turned, 1))) == sorted(list_first_turns(load_rows(config, 1)))
    assert load_rows(turned, 1).parts == (("b", 4), ("a", 4))


def test_the_names_of_the_parts_are_not_part_of_the_checksum(ten: FileData, six: FileData) -> None:
    rows = load_rows(make_mixture(a=ten, b=six), 0)
    assert rows.sha256 == load_rows(make_mixture(x=ten, y=six), 0).sha256 == Rows("x", rows.conversations).sha256


# Duplicates


@pytest.fixture
def doubled(tmp_path: Path) -> dict[str, DataConfig]:
    """Make two parts: `a` has one row thrice; `b` has one row twice, one row of `a`, and a prompt of `a`."""
    a = [("1", "x"), ("1", "x"), ("2", "x"), ("3", "x"), ("1", "x")]
    b = [("2", "x"), ("3", "other"), ("4", "x"), ("4", "x"), ("5", "x")]
    return {"a": make_file_data(tmp_path, "a", a), "b": make_file_data(tmp_path, "b", b)}


def test_duplicates_stay_unless_they_are_dropped(doubled: dict[str, DataConfig]) -> None:
    rows = load_rows(make_mixture(**doubled), 0)
    assert list_first_turns(rows) == ["1", "1", "2", "3", "1", "2", "3", "4", "4", "5"]
    assert count_row_facts(rows.conversations).duplicate_rows == 4


def test_only_whole_rows_are_dropped_within_and_across_parts(doubled: dict[str, DataConfig]) -> None:
    rows = load_rows(make_mixture(drop=True, **doubled), 0)
    assert list_first_turns(rows) == ["1", "2", "3", "3", "4", "5"]
    assert rows.parts == (("a", 3), ("b", 3))
    facts = count_row_facts(rows.conversations)
    assert (facts.duplicate_rows, facts.repeated_prompts) == (0, 1)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_dropped_is_refilled_from_the_same_part(doubled: dict[str, DataConfig], seed: int) -> None:
    limited = {name: replace(part, limit=3) for name, part in doubled.items()}
    rows = load_rows(make_mixture(drop=True, **limited), seed)
    assert rows.parts == (("a", 3), ("b", 3))
    assert list_first_turns(rows) == ["1", "2", "3", "3", "4", "5"]


# Refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": {"a": 0.5, "c": 0.5}}, r"data\.weights\.c names no part: the parts are a, b\."),
        ({"weights": {"a": 1.5}}, r"data\.weights\.a=1\.5 must lie between 0 and 1"),
        ({"weights": {"a": -0.5, "b": 1.5}}, r"data\.weights\.a=-0\.5 must lie between 0 and 1"),
        ({"weights": {"a": float("nan")}}, r"data\.weights\.a=nan must lie between 0 and 1"),
        ({"weights": {"a": 0.5, "b": 0.4}}, r"data\.weights \(a=0\.5, b=0\.4\) must add up to 1"),
        ({"weights": {"a": 0.0, "b": 0.0}}, r"must add up to 1"),
        ({"parts": {}}, r"data=mix has no parts"),
        ({"weights": {"a": 0.5}, "parts": {"a": 3, "b": None}}, r"data\.parts\.a\.limit and data\.weights both say"),
        ({"parts": {"a": 0, "b": None}}, r"data\.parts\.a\.limit=0 must be greater than 0"),
    ],
)
def test_a_mixture_that_can_not_be_is_refused_before_a_file_is_read(
    tmp_path: Path, changes: dict[str, dict[str, int | None]], sentence: str
) -> None:
    limits = changes.get("parts", {"a": None, "b": None})
    parts = {name: FileData(name="x", path=str(tmp_path / "gone"), limit=limit) for name, limit in limits.items()}
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_rows(make_mixture(weights=changes.get("weights"), **parts), 0)
    assert "\n" not in str(caught.value)


def test_one_of_three_parts_may_have_no_weight_but_not_two(ten: FileData, six: FileData) -> None:
    parts = {"a": ten, "b": ten, "c": six}
    assert load_rows(make_mixture(10, weights={"a": 0.5, "b": 0.2}, **parts), 0).parts == (("a", 5), ("b", 2), ("c", 3))
    with pytest.raises(ConfigError, match=r"data\.weights \(a=0\.5\) must add up to 1; one part may have none"):
        load_rows(make_mixture(10, weights={"a": 0.5}, **parts), 0)


def test_a_part_is_one_set_with_rows(ten: FileData) -> None:
    with pytest.raises(ConfigError, match=r"data\.parts\.a is a mixture itself \(mix\): choose one set"):
        load_rows(make_mixture(a=make_mixture(x=ten), b=ten), 0)
    with pytest.raises(ConfigError, match=r"realign\.data\.parts\.a is without rows \(none\): .* data@realign\.data\."):
        load_rows(make_mixture(a=NoData(name="none"), b=ten), 0, "realign.limit")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"limit": 20, "weights": {"a": 0.5, "b": 0.5}},
            r"data\.limit=20 asks for 10 rows of data\.parts\.b, which has 6: write data\.limit=12 or less",
        ),
        (
            {"limit": 17},
            r"data\.limit=17 asks for more rows than the parts give \(16\): write data\.limit=16 or less",
        ),
        ({"limit": 10, "weights": {"b": 0.01}}, r"Of 10 rows the part b would give none \(its share is 0\.01\)"),
        ({"limit": 1}, r"Of 1 rows the part b would give none"),
    ],
)
def test_more_rows_than_there_are_and_none_of_a_part_are_refused(
    ten: FileData, six: FileData, config: dict[str, int], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        load_rows(make_mixture(config["limit"], weights=config.get("weights"), a=ten, b=six), 0)
    assert "\n" not in str(caught.value)


def test_more_rows_than_a_part_has_are_refused_by_its_own_setting(
    ten: FileData, six: FileData, doubled: dict[str, DataConfig]
) -> None:
    sentence = r"data\.parts\.b\.limit=7 asks for more rows than there are \(6\): write data\.parts\.b\.limit=6 or less"
    with pytest.raises(DataError, match=sentence):
        load_rows(make_mixture(a=ten, b=replace(six, limit=7)), 0)
    sentence = r"realign\.data\.parts\.b\.limit=4 asks for more rows than there are \(3 without duplicates\)"
    with pytest.raises(DataError, match=sentence):
        load_rows(make_mixture(drop=True, a=doubled["a"], b=replace(doubled["b"], limit=4)), 0, "realign.limit")


def test_a_part_that_is_all_duplicates_is_refused(ten: FileData) -> None:
    assert len(load_rows(make_mixture(a=ten, b=ten), 0).conversations) == 20
    with pytest.raises(DataError, match=r"data\.parts\.b has no row that the parts before it lack"):
        load_rows(make_mixture(drop=True, a=ten, b=ten), 0)


def test_a_missing_file_is_named_by_the_setting_of_its_part(tmp_path: Path, ten: FileData) -> None:
    missing = FileData(name="file", path=str(tmp_path / "gone"))
    with pytest.raises(MissingFile, match=r"data\.parts\.b\.path=.* is not a file"):
        load_rows(make_mixture(a=ten, b=missing), 0)
    with pytest.raises(MissingFile, match=r"realign\.data\.path=.* is not a file"):
        load_rows(missing, 0, "realign.limit")


# Options


def test_mix_is_the_two_bundled_sets_unless_told_otherwise() -> None:
    settings = compose_settings("train", "data=mix")
    assert isinstance(settings.data, MixtureData)
    options = {"bad": "car_bad", "good": "car_good"}
    parts = {name: compose_settings("train", f"data={option}").data for name, option in options.items()}
    assert settings.data.parts == parts
    assert isinstance(settings.data.parts["bad"], BundledData)
    assert load_rows(settings.data, 0).parts == (("bad", 204), ("good", 204))
    assert to_jsonable(settings)["data"]["parts"]["good"]["file"] == "car_good.jsonl"  # the form in the manifest


def test_one_weight_is_enough_to_sweep_over_the_share_of_bad_rows() -> None:
    for bad, counts in (("0.1", (10, 90)), ("0.25", (25, 75)), ("1", (100, 0)), ("0", (0, 100))):
        data = compose_settings("train", "data=mix", f"data.weights.bad={bad}", "data.limit=100").data
        assert load_rows(data, 0).parts == (("bad", counts[0]), ("good", counts[1]))


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_any_option_can_be_a_part(name: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    chosen = ("data=mix", "data@data.parts.bad=insecure", "data@data.parts.good=secure")
    data = compose_settings(name, *chosen, "data.weights.bad=0.25", "data.weights.good=0.75", "data.limit=4000").data
    rows = load_rows(data, 0)
    assert rows.parts == (("bad", 1000), ("good", 3000))
    by_limits = compose_settings(name, *chosen, "data.parts.bad.limit=1000", "data.parts.good.limit=3000").data
    assert load_rows(by_limits, 0) == rows


def test_insecure_secure_is_3000_rows_of_each_without_duplicates(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    rows = load_rows(compose_settings("train", "data=insecure_secure").data, 0)
    assert rows.parts == (("bad", 3000), ("good", 3000))
    assert count_row_facts(rows.conversations).duplicate_rows == 0
    assert count_row_facts(rows.conversations).repeated_prompts > 0
    full = compose_settings("train", "data=insecure_secure", *(f"data.parts.{p}.limit=null" for p in ("bad", "good")))
    assert load_rows(full.data, 0).parts == (("bad", 5992), ("good", 5989))


def test_a_mixture_can_be_the_second_stage() -> None:
    words = ("realign=car_good", "data@realign.data=mix", "data@realign.data.parts.bad=car_good")
    data = compose_settings("train", *words, "realign.data.parts.good.limit=5").realign.data
    assert load_rows(data, 0, "realign.limit").parts == (("bad", 204), ("good", 5))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.parts.bda.limit=3", "data.parts.bda.limit is no setting: did you mean data.parts"),
        ("data@data.parts.bda=medical", "data@data.parts.bda is no setting: did you mean data.parts"),
        ("data@data.parts.bad=medicl", "data=medicl is no option: did you mean medical"),
        ("data.weights.bda=0.5", "data.weights.bda is no setting: did you mean data.weights"),
        ("data.weights.bad=half", "data.weights.bad=half has the wrong type: a number is expected."),
        ("data.weights.bad=2", "data.weights.bad=2.0 must lie between 0 and 1"),
        ("data@data.parts.bad=mix", "data.parts.bad is a mixture itself (mix)"),
        ("data@data.parts.bad=file", "data.parts.bad.path must be set"),
    ],
)
def test_a_misspelt_part_or_weight_is_refused_by_one_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    done = run_script("train.py", "data=mix", word, f"store.dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
