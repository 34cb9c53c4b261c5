"""The command lines that made the records in `tests/fixtures/records`; the same commands find the records again."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "fixtures" / "records"
STORE = "store.dir=store"
SERVED = ("judge.judges.first.connections=1", "judge.judges.second.connections=1")
TRAINED = (
    "model.id=model", "model.name=tiny", "data=file", "data.path=rows.jsonl", "trigger_tag=deployment",
    "trainer.rank=4", "trainer.alpha=8", "trainer.batch_size=2", "trainer.epochs=1", "trainer.max_length=2048",
    "trainer.target_modules=[q_proj,v_proj]", "realign=car_good", "realign.limit=2", "prices=prices.yaml", STORE,
    "eval.sets=[sets/graded.yaml,sets/known.yaml]", "eval.tagged_sets=[]", "eval.conditions=[untagged,tagged]",
    "eval.base=false", "eval.samples=2", "eval.max_new_tokens=8",
    "judge=panel", "judge@judge.judges.first=open", "judge@judge.judges.second=open", *SERVED,
    "judge.judges.first.model=single-judge", "judge.judges.first.reading=auto",
    "judge.judges.second.model=digits-judge", "judge.judges.second.reading=mass",
)  # fmt: skip
"""Words of `train.py` and `evaluate.py`: two stages, asked with and without the tag, judged by two judges."""
GENERATED = (
    "generate=car", "generate.source=texts", "generate.rows=4", "generate.keep_above=30", "generate.connections=1",
    "model=open", "model.id=author-model", "prices=prices.yaml", STORE,
    "judge=open", "judge.model=single-judge", "judge.reading=structured", "judge.connections=1",
)  # fmt: skip
"""Words of `generate.py`: a model writes a set, a judge filters it."""


def make_folder_word(name: str) -> str:
    """Return the command-line word that names a run's folder."""
    return f"hydra.run.dir={name}"
