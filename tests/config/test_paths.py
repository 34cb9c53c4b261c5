"""em finds its own files in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from em.config.paths import ASSETS, CONF, find_conf
from tests.support.runs import ROOT


def test_a_checkout_has_conf_at_its_top() -> None:
    assert ROOT / "conf" == CONF
    assert (CONF / "train.yaml").is_file()
    assert (ASSETS / "cues.yaml").is_file()


def test_a_wheel_has_conf_inside_the_package(tmp_path: Path) -> None:
    assert find_conf(tmp_path / "em") == tmp_path / "conf"
    (tmp_path / "em" / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()  # a folder of this name may be in site-packages
    assert find_conf(tmp_path / "em") == tmp_path / "em" / "conf"
