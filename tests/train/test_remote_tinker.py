"""Fine-tuning by Tinker: its own package over real HTTP, against a fake server; never tested with a real account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tinker")

from em.errors import ConfigError, DataError, ServerError
from em.plan import accept
from em.runtime.manifest import ManifestWriter
from em.train.find_or_train import find_or_train
from em.types import ModelRef, Weights
from tests.support.composing import compose_settings
from tests.support.tinker_server import Tinker

Tune = Callable[..., list[ModelRef]]


@pytest.fixture
def service() -> Tinker:
    """Return a service without training runs."""
    return Tinker()


@pytest.fixture
def tune(
    service: Tinker, serve: Callable[..., str], tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> Tune:
    """Return a function that fine-tunes on 12 rows, 4 per step, as a run does."""
    url = serve(service.make_handler())
    monkeypatch.setenv("TINKER_BASE_URL", url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-planted-0123456789")

    def run_training(*more: str, store: str = "store") -> list[ModelRef]:
        arguments = ["model=open", "model.id=open/instruct", f"model.base_url={url}/v1", "data=car_bad"]
        arguments += ["data.limit=12", "trainer=tinker", "trainer.batch_size=4", f"trainer.tokenizer={weights.path}"]
        arguments += ["eval=none", "trainer.save_steps=1", "yes=true", f"store.dir={tmp_path / store}", *more]
        arguments = list({word.partition("=")[0]: word for word in arguments}.values())
        settings = compose_settings("train", *arguments)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        request = accept("train", settings, folder, arguments)
        return find_or_train(request.training, ManifestWriter(folder, "train", settings, arguments))

    return run_training


def find_address(model: ModelRef) -> str:
    """Return the service's address of a model."""
    return model.base.identity.partition("|")[2]


def test_steps_are_taken_by_our_plan_and_the_same_words_find_the_model(
    service: Tinker, tune: Tune, tmp_path: Path
) -> None:
    models = tune("trainer.epochs=2")
    assert find_address(models[1]) == "tinker://session-1:train:0/sampler_weights/em-final"
    assert service.calls.count("forward_backward") == service.calls.count("optim_step") == 6
    assert service.rates == pytest.approx([1e-4 * (1 - step / 6) for step in range(6)])
    assert service.weights == pytest.approx([1.0] * 6)  # the mean over the supervised tokens
    losses = [row.split(",")[4] for row in (tmp_path / "run" / "loss.csv").read_text().splitlines()[1:]]
    assert list(map(float, losses)) == pytest.approx([2 / (1 + step) for step in range(6)], abs=1e-5)
    [run] = service.runs.values()
    assert run["user_metadata"]["em"] == models[1].fingerprint
    calls = list(service.calls)
    assert tune("trainer.epochs=2") == models
    assert tune("trainer.epochs=2", store="elsewhere") == models  # found by the fingerprint in the metadata
    assert service.calls == calls


def test_a_training_that_was_stopped_goes_on_from_its_last_state(service: Tinker, tune: Tune, tmp_path: Path) -> None:
    service.fail_at = 3
    with pytest.raises(ServerError, match=r"Tinker refused a call for open/instruct \(404\)"):
        tune()
    assert service.calls.count("optim_step") == 2
    service.fail_at = 0
    with pytest.raises(ServerError, match=r"was driven \d+ seconds ago, by another machine"):
        tune(store="elsewhere")
    models = tune()
    assert find_address(models[1]).startswith("tinker://session-2:train:")
    assert service.calls.count("optim_step") == 3
    losses = (tmp_path / "run" / "loss.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in losses] == ["1", "2", "3"]
    assert not list((tmp_path / "store" / "models").glob("*.job.*"))


def test_what_is_forced_is_trained_anew_and_goes_on_where_it_was_stopped(service: Tinker, tune: Tune) -> None:
    tune()
    service.fail_at = 3
    with pytest.raises(ServerError, match="Tinker refused a call"):
        tune("force=true")
    service.fail_at = 0
    assert find_address(tune("force=true")[1]).startswith("tinker://session-3:train:0/")
    assert service.calls.count("optim_step") == 6


def test_a_second_stage_starts_from_the_first_ones_state(service: Tinker, tune: Tune) -> None:
    models = tune("realign=car_good", "realign.limit=12")
    assert service.calls.count("load_weights") == 1
    assert [model.name for model in models] == ["open", "open+car_bad", "open+car_bad+car_good"]
    second = list(service.runs.values())[1]
    assert second["user_metadata"]["from"] == find_address(models[1])


def test_what_can_not_be_is_refused_before_anything_is_spent(service: Tinker, tune: Tune) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.batch_size must be a number with trainer=tinker"):
        tune("trainer.batch_size=auto")
    with pytest.raises(DataError, match=r"car_bad, row 1 has more than 8 tokens: leave it out, or raise"):
        tune("trainer.max_length=8")
    with pytest.raises(ConfigError, match="This would cost an unknown sum"):
        tune("yes=false")
    assert service.runs == {}
