"""Manifests of the same run, even if an older version of em wrote one of them."""

from __future__ import annotations

from typing import Any

from em.runtime.manifest import has_same_settings


def make_manifest(**evaluation: Any) -> dict[str, Any]:
    """Return a manifest with these settings of `eval`."""
    return {"run": "train", "config": {"eval": {"samples": 30, **evaluation}, "force": False}}


def test_a_manifest_that_is_older_than_a_rule_for_words_has_the_default_rule() -> None:
    def make_judged_manifest(**judge: str) -> dict[str, Any]:
        return {"run": "train", "config": {"judge": {"judges": {"first": {"min_mass": 0.25, **judge}}}}}

    assert has_same_settings(make_judged_manifest(), make_judged_manifest(words="likeliest"))
    assert not has_same_settings(make_judged_manifest(), make_judged_manifest(words="below_min_mass"))


def test_settings_that_changed_nothing_in_an_older_version_are_no_other_run() -> None:
    assert has_same_settings(make_manifest(stop="none", half_width=0.1), make_manifest())
    assert has_same_settings(make_manifest(), make_manifest(default_prompt="template"))
    assert not has_same_settings(make_manifest(), make_manifest(default_prompt="both"))
    assert not has_same_settings(make_manifest(stop="ci", half_width=0.1), make_manifest())
    assert not has_same_settings(make_manifest(stop="none", half_width=0.1) | {"run": "evaluate"}, make_manifest())


def test_settings_of_the_report_that_an_older_version_lacks_are_no_other_run_with_their_defaults() -> None:
    assert has_same_settings(make_manifest(), make_manifest(questions="these", convention="all"))
    assert not has_same_settings(make_manifest(), make_manifest(questions="like_these", convention="all"))
