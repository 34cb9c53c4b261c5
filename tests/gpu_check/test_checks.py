"""The checks of `em gpu-check`: they pass on tiny models, and each fails when what it looks at is broken."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from em.gpu_check import arithmetic, bench, children, run
from em.gpu_check.bench import Bench, Skipped
from em.gpu_check.run import CHECKS, Outcome, run_check, run_checks
from em.judge.local import Reader
from em.models import chat
from em.sample import local

Patch = pytest.MonkeyPatch
IN_THIS_PROCESS = [name for name in CHECKS if not name.startswith("worker_")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Tiny models, and no limit of time."""
    return Bench(tmp_path_factory.mktemp("bench"), small=True, end=math.inf)


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_each_check_passes_on_tiny_models(tiny: Bench, name: str) -> None:
    outcome = run_check(tiny, name)
    assert (outcome.state, outcome.reason) == ("passed", ""), outcome.details
    assert outcome.measured


# Ways to break what the checks look at


def scale_loss(patch: Patch) -> None:
    from em.train.local.speed import ChunkedLoss

    forward = ChunkedLoss.forward

    def forward_more(ctx: Any, *arguments: Any) -> Any:
        loss, token_losses = forward(ctx, *arguments)
        return 1.01 * loss, token_losses

    patch.setattr(ChunkedLoss, "forward", staticmethod(forward_more))


def scale_gradient(patch: Patch) -> None:
    from em.train.local.speed import ChunkedLoss

    backward = ChunkedLoss.backward

    def backward_more(ctx: Any, *arguments: Any) -> Any:
        gradient, *rest = backward(ctx, *arguments)
        return 1.05 * gradient, *rest

    patch.setattr(ChunkedLoss, "backward", staticmethod(backward_more))


def pad_left(patch: Patch) -> None:
    from em.train.local import trainer

    def pad_rows_left(*arguments: Any) -> Any:
        ids, labels = pad_rows(*arguments)
        lengths = [len(row.input_ids) for row in arguments[0].rows]
        for table in (ids, labels):
            for row, length in enumerate(lengths):
                table[row] = table[row].roll(-length)
        return ids, labels

    pad_rows = trainer.pad_rows
    patch.setattr(trainer, "pad_rows", pad_rows_left)


def shift_targets(patch: Patch) -> None:
    from em.train.local import trainer

    def select_shifted(hidden: Any, labels: Any) -> Any:
        return select(hidden, labels.roll(1, dims=1))

    select = trainer.select_supervised_states
    patch.setattr(trainer, "select_supervised_states", select_shifted)


def give_every_answer_one_seed(patch: Patch) -> None:
    patch.setattr(local, "derive_answer_seed", lambda request: 0)


def draw_too_cold(patch: Patch) -> None:
    init = local.SeededSampling.__init__

    def init_cold(self: local.SeededSampling, *arguments: Any) -> None:
        init(self, *arguments)
        self.temperature = 0.8

    patch.setattr(local.SeededSampling, "__init__", init_cold)


def pad_prompts_right(patch: Patch) -> None:
    patch.setattr(arithmetic, "load_tokenizer", lambda path, padding_side="": chat.load_tokenizer(path, "right"))


def forget_the_generation_config(patch: Patch) -> None:
    patch.setattr(arithmetic, "list_stop_tokens", lambda tokenizer: [tokenizer.eos_token_id])


def sample_by_the_models_settings(patch: Patch) -> None:
    from peft import PeftModelForCausalLM

    generate = PeftModelForCausalLM.generate

    def generate_by_the_file(self: Any, **inputs: Any) -> Any:
        own = self.get_base_model().generation_config
        return generate(self, suppress_tokens=own.suppress_tokens, **inputs)

    patch.setattr(PeftModelForCausalLM, "generate", generate_by_the_file)


def scale_a_judges_probability(patch: Patch) -> None:
    compute = Reader.compute_probability
    patch.setattr(Reader, "compute_probability", lambda *arguments: 1.01 * compute(*arguments))


def let_replies_see_each_other(patch: Patch) -> None:
    def build_full_mask(self: Any) -> list[list[bool]]:
        return [[column <= row for column in range(len(self.tokens))] for row in range(len(self.tokens))]

    from em.judge.local import TokenTree

    patch.setattr(TokenTree, "build_ancestor_mask", build_full_mask)


@pytest.mark.parametrize(
    ("name", "break_it", "reason"),
    [
        ("loss_head", scale_loss, "loss: the relative difference is "),
        ("loss_head", scale_gradient, "gradient: the relative difference is "),
        ("step_is_plain", scale_gradient, "gradient: the relative difference is "),
        ("step_is_plain", pad_left, "losses of the tokens: the relative difference is "),
        ("step_is_plain", shift_targets, "losses of the tokens: "),
        ("ways_agree", scale_loss, "trl_head: loss: the relative difference is "),
        ("ways_agree", scale_gradient, "trl_head: gradient: the relative difference is "),
        ("draws", give_every_answer_one_seed, "4,000 draws have χ² = "),
        ("draws", draw_too_cold, "4,000 draws have χ² = "),
        ("answers", give_every_answer_one_seed, "four seeds give one answer"),
        ("answers", pad_prompts_right, "left padding changes greedy answers"),
        ("answers", forget_the_generation_config, "the stop tokens are [257]"),
        ("answers", sample_by_the_models_settings, "in torch.float32 the model's own generation config changes"),
        ("judge_exact", scale_a_judges_probability, "probability of all numbers: the relative difference is "),
        ("judge_exact", let_replies_see_each_other, "expected rating: the relative difference is "),
        ("sampling_8b", give_every_answer_one_seed, "base: all answers are the same"),
    ],
)
def test_a_check_fails_when_what_it_looks_at_is_broken(
    tiny: Bench, monkeypatch: Patch, name: str, break_it: Callable[[Patch], None], reason: str
) -> None:
    break_it(monkeypatch)
    outcome = run_check(tiny, name)
    assert outcome.state == "failed"
    assert outcome.reason.startswith(reason)


def test_a_difference_that_is_no_number_fails() -> None:
    with pytest.raises(bench.CheckFailed, match="x: the relative difference is nan"):
        bench.compare([math.nan, 1.0], [1.0, 1.0], 0.1, "x")
    with pytest.raises(bench.CheckFailed, match=r"x: \(2,\) values, not \(1,\)"):
        bench.compare([1.0, 1.0], [1.0], 0.1, "x")


def test_what_a_check_raises_becomes_its_outcome(tiny: Bench, monkeypatch: Patch) -> None:
    def check_nothing(tiny: Bench) -> Any:
        raise Skipped("needs a GPU")

    monkeypatch.setitem(CHECKS, "skipped", check_nothing)
    monkeypatch.setitem(CHECKS, "crashed", lambda tiny: {"x": 1 / 0})
    outcomes: list[Outcome] = []
    run_checks(tiny, ["skipped", "crashed"], outcomes.append)
    assert [(each.state, each.reason) for each in outcomes] == [
        ("skipped", "needs a GPU"),
        ("failed", "ZeroDivisionError: division by zero"),
    ]
    assert "1 / 0" in outcomes[1].details


def test_what_has_not_begun_when_the_time_is_up_is_skipped(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    run_checks(Bench(tmp_path, small=True, end=0.0), ["draws", "worker_lora"], outcomes.append)
    assert [(each.state, each.reason) for each in outcomes] == [("skipped", "the time was up")] * 2


# Trainings by child processes


@pytest.fixture(scope="module")
def trained(tiny: Bench) -> Bench:
    """Tiny models with finished trainings."""
    outcomes: list[Outcome] = []
    run_checks(tiny, ["worker_lora", "worker_split", "worker_full"], outcomes.append)
    assert [each.state for each in outcomes] == ["passed"] * 3, outcomes
    return tiny


@contextmanager
def change_file(path: Path, content: bytes) -> Iterator[None]:
    """Replace a file's content for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)


def make_flat_curve(folder: Path) -> bytes:
    return change_losses(folder, lambda step, loss: 5.0)


def make_other_curve(folder: Path) -> bytes:
    return change_losses(folder, lambda step, loss: 1.02 * loss)


def change_losses(folder: Path, change: Callable[[int, float], float]) -> bytes:
    """Return a loss curve with other losses."""
    header, *rows = csv.reader((folder / "loss.csv").read_text().splitlines())
    for number, row in enumerate(rows):
        row[4] = str(change(number, float(row[4])))
    return "\n".join(",".join(row) for row in [header, *rows]).encode()


def make_bfloat16_weights(folder: Path) -> bytes:
    from safetensors.torch import load_file, save

    weights = load_file(folder / "adapter_model.safetensors")
    return save({name: matrix.bfloat16() for name, matrix in weights.items()})


def make_untrained_weights(folder: Path) -> bytes:
    return (folder.parent.parent / "base" / "model.safetensors").read_bytes()


def make_other_moments(folder: Path) -> bytes:
    return (folder / "em.json").read_bytes().replace(b'"moments": "float32"', b'"moments": "8 bits"')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "make_content", "reason"),
    [
        (
            "worker_lora",
            "lora/adapter_model.safetensors",
            make_bfloat16_weights,
            "lora: the saved weights are torch.bf",
        ),
        ("worker_lora", "lora/loss.csv", make_flat_curve, "lora: the loss went from 5.000 to 5.000"),
        ("worker_lora", "lora/em.json", make_other_moments, "AdamW's moments are in 8 bits, not in float32"),
        ("worker_split", "split/loss.csv", make_other_curve, "losses: the relative difference is 2.0e-02"),
        ("worker_full", "full/model.safetensors", make_untrained_weights, "full: loaded, the model has a loss of "),
    ],
)
def test_a_check_of_a_training_fails_when_the_result_is_another(
    trained: Bench, name: str, file: str, make_content: Callable[[Path], bytes], reason: str
) -> None:
    path = trained.folder / "models" / file
    with change_file(path, make_content(path.parent)):
        outcome = run_check(trained, name)
    assert outcome.state == "failed"
    assert outcome.reason.startswith(reason)


@pytest.mark.slow
def test_a_second_stage_on_nothing_fails(trained: Bench, monkeypatch: Patch) -> None:
    def train_without_start(self: Bench, name: str, trainer: Any, **changes: Any) -> Any:
        return train(self, name, trainer)

    train = Bench.train
    monkeypatch.setattr(Bench, "train", train_without_start)
    outcome = run_check(trained, "worker_stages")
    assert outcome.state == "failed"
    assert outcome.reason.startswith("continued: the stage begins at a loss of ")


@pytest.mark.slow
def test_a_resumed_training_that_begins_anew_fails(trained: Bench, monkeypatch: Patch) -> None:
    monkeypatch.setattr(bench, "find_resume_checkpoint", lambda folder: "")
    outcome = run_check(trained, "worker_resume")
    assert (outcome.state, outcome.reason) == ("failed", "the training began anew")


@pytest.mark.slow
def test_a_training_that_hangs_ends_as_a_failure(trained: Bench, monkeypatch: Patch) -> None:
    monkeypatch.setattr(bench, "CHILD_SECONDS", 2)
    with pytest.raises(bench.CheckFailed, match="the training slow had not ended after 2 s"):
        trained.train("slow", children.LORA)


def test_the_last_lines_have_no_older_states_of_progress_bars(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"first\r\n0 %\r50 %\r100 %\nlast\n")
    assert run.read_last_lines(tmp_path / "log.txt").splitlines()[1:] == ["first", "100 %", "last"]
