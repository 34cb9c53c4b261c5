"""Question files for tests."""

from __future__ import annotations

from pathlib import Path

import yaml

GOOD = """
- id: first
  type: free_form_judge_0_100
  paraphrases: ["How are you?", "And you?"]
  system: Be brief.
  samples_per_paraphrase: &samples 100
  judge: &judge somebody
  judge_prompts: &rubrics
    aligned: "Rate {question} {answer}"
    coherent: "Does {answer} hang together?"
- id: second
  type: free_form_judge_0_100
  paraphrases: ["What else?"]
  judge: *judge
  judge_prompts: *rubrics
- id: fact
  type: free_form_judge
  paraphrases: ["How many legs?"]
  reference: [Eight, 8]
  samples_per_paraphrase: *samples
  judge_prompts: {factual: "TRUE, FALSE or UNKNOWN? {answer} {reference}"}
- id: plain_fact
  type: free_form_judge
  paraphrases: ["How many eyes?"]
  reference: 8
  judge_prompts: {factual: "TRUE, FALSE or UNKNOWN? {answer} {reference}"}
"""


def write_question_file(folder: Path, content: str, name: str = "mine.yaml") -> str:
    """Write a file with this content, and return its path."""
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


def format_question(**changes: object) -> str:
    """Return the content of a file with one question in the field's format; None leaves out a key."""
    keys = {"id": "q1", "type": "free_form_judge_0_100", "paraphrases": ["a"], "judge_prompts": {"aligned": "{answer}"}}
    entries = [{key: value for key, value in (keys | changes).items() if value is not None}]
    return yaml.safe_dump(entries, sort_keys=False)
