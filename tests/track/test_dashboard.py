"""The dashboard of a W&B project: its panels chart the numbers that runs have; what is wrong is told in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from em.cli.dashboard import main
from em.errors import ConfigError, MissingFile, ServerError
from em.track.dashboard import save
from tests.support.composing import composed
from tests.support.report_runs import BASE
from tests.support.tracked_runs import entry, model, told, write_tracked

ROOT = Path(__file__).parent.parent.parent


def test_its_panels_chart_what_runs_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces", reason="not installed")
    main(["team/em", "--json"])
    document = json.loads(capsys.readouterr().out)
    text = json.dumps(document)
    first, second = model("car_bad", "b0"), model("car_good", "e4")
    run = told(
        write_tracked(tmp_path, [entry(first), entry(second)], {BASE: [90.0] * 2, first: [5.0] * 2, second: [90.0] * 2})
    )
    for key in ("base", "stage_1", "stage_2"):
        assert f"summary_metrics.{key}/probe/misaligned" in text
        assert f"{key}/probe/misaligned" in run.summary
        assert f"transcripts/{key}" in text
    for key in ("stage_1/loss", "stage_2/loss"):
        assert key in text
        assert run.curve(key)


def test_what_it_can_not_do_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="team is no project: write it as ENTITY/PROJECT"):
        save("team", shown_only=False)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        with pytest.raises(MissingFile, match="uv pip install wandb-workspaces"):
            save("team/em", shown_only=False)
        return
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ServerError, match=r"W&B did not take the dashboard .*WANDB_API_KEY"):
        save("team/em", shown_only=False)


def test_the_sweep_of_wandb_gives_words_that_train_takes() -> None:
    sweep = yaml.safe_load((ROOT / "conf" / "sweep" / "wandb.yaml").read_text(encoding="utf-8"))
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][1:] == ["${program}", "${args_no_hyphens}"]
    chosen = {key: each.get("value", each.get("values", [None])[-1]) for key, each in sweep["parameters"].items()}
    settings = composed("train", *(f"{key}={value}" for key, value in chosen.items()))
    assert (settings.data.name, settings.realign.name, settings.seed) == ("car_good", "neutral", 1)
    assert settings.tracker.name == "wandb"
