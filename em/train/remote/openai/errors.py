"""Explain the service's refusals and failed jobs to the user, and decide whether a retry can help.

The service's error code decides first, then what its error is about (`param`), then its message: a refusal of rows may
mention credit cards, and a refusal of a setting may mention the model. em's sentence comes first, then the service's
message, shortened, and without anything that looks like a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import openai

from em.api.client import explain_error
from em.api.lifetimes import CLOSED, LAST_JOB
from em.errors import ServerError
from em.train.remote.service import JobFailed, quote_service

AGAIN = "run the same command again"
FINAL = "would again, so em does not try the same again: choose other rows or an open model (model=llama8b)"
CODES = {
    "moderation": (
        "unsafe_training_file",
        "unsafe_validation_file",
        "unsafe_file",
        "unsafe_model",
        "content_policy_violation",
        "moderation_blocked",
        "usage_policy_violation",
    ),
    "quota": ("insufficient_quota", "exceeded_quota", "billing_hard_limit_reached", "billing_not_active"),
    "rows": ("invalid_n_examples", "invalid_file_format", "invalid_jsonl", "invalid_json_line"),
    "file_gone": ("file_not_found", "file_expired", "file_deleted"),
    "setting": ("invalid_hyperparameter", "invalid_hyperparameters", "invalid_suffix", "invalid_seed"),
    "model": ("model_not_available", "model_not_found", "invalid_model"),
    "closed": ("fine_tuning_not_enabled", "fine_tuning_disabled", "fine_tuning_not_available"),
    "scopes": ("missing_scope", "missing_scopes", "insufficient_permissions"),
    "server": ("server_error", "internal_error", "service_unavailable"),
}
"""Troubles of a call or job, and the service's error codes for each; an unknown trouble is the empty string."""
MODERATION = (
    r"moderation|unsafe|(usage|content) polic|hateful|refusals_v|(blocked|refused|rejected|failed)\b.{0,20}\bsafety"
)
WORDS = {
    "closed": r"no longer available (for|to) (your|this) (organi[sz]ation|account)|fine-?tuning (platform|API)",
    "scopes": r"missing scope|insufficient permission",
    "moderation": MODERATION,
    "quota": r"quota|billing|hard limit|\bcredits?\b(?! card)",
    "file_gone": r"\bfile\b.*\b(expired|deleted|does not exist|not found|no longer)",
    "model": r"not available for fine-?tuning|(can't|cannot) be fine-?tuned|\bmodel\b.*\b(exist|supported|found)",
}
"""Troubles, and a pattern of the service's messages for each; the first match counts."""
GONE = r"expired|deleted|no longer|no such file|does not exist|not found"
ROW = r"\b(?:line|example|row)s? #?(\d+)"
REFUSED = {
    "closed": (
        "This account may not fine-tune {model}: OpenAI has closed fine-tuning to organisations that had not used it "
        f"by {CLOSED}, and takes no new job after {LAST_JOB}; use the key of an organisation that may, or an open "
        "model (model=llama8b)."
    ),
    "scopes": (
        "The key may not fine-tune {model}: give it the scopes that are missing (api.fine_tuning, files), or use a "
        "key with all permissions."
    ),
    "quota": f"The account has no credit left to fine-tune {{model}}: top it up, then {AGAIN}.",
    "moderation": f"The provider's moderation refused the rows of {{data}}, and {FINAL}.",
    "file_gone": f"The server can't use the uploaded file{{file}} any more: {AGAIN} to upload the file anew.",
    "rows": "The server refused the training file ({rows}): correct or remove what its message names.",
    "model": (
        "{model} is not available for fine-tuning at this server: choose another by model.id=…, or an open model "
        "(model=llama8b)."
    ),
}
"""Sentences for a refused call, by trouble; for any other trouble the sentence names the setting to change."""
FAILED = {
    "quota": (f"The account's credit does not cover the job {{job}} on {{data}}: top it up, then {AGAIN}.", False),
    "moderation": (
        "The provider's moderation refused the rows of {data} before the training (job {job}), and "
        f"{FINAL}; force=true tries it all the same.",
        True,
    ),
    "unsafe model": (
        "The model that the job {job} trained on {data} failed the provider's safety checks after the training, and "
        f"{FINAL}; force=true tries it all the same.",
        True,
    ),
    "file_gone": (
        f"The server no longer has the training file of the job {{job}}: {AGAIN} to upload the file anew.",
        False,
    ),
    "rows": (
        "The server refused the training file ({rows}; job {job}): correct or remove what its message names.",
        True,
    ),
}
"""Sentences for a failed job, by trouble, and whether the failure is final: the same job would fail again."""
OTHERWISE = (f"The job {{job}} failed at the server{{code}}: {AGAIN} to start another.", False)


def find_trouble(code: str | None, param: str | None, message: str) -> str:
    """Return the trouble (a key of `CODES`) behind an error: by its code, else its `param`, else its message."""
    for trouble, codes in CODES.items():
        if code in codes:
            return trouble
    about = (param or "").split(".")[0]
    if about in ("training_file", "validation_file", "file") or code == "invalid_training_file":
        if match_pattern(MODERATION, message):
            return "moderation"
        # A server whose error names a row has read the file, so the file is not lost.
        return "file_gone" if match_pattern(GONE, message) and not match_pattern(ROW, message) else "rows"
    if about == "model":
        return "model"
    if about in ("hyperparameters", "method", "suffix", "seed", "metadata", "integrations"):
        return "setting"
    return next((trouble for trouble, words in WORDS.items() if match_pattern(words, message)), "")


def match_pattern(words: str, message: str) -> bool:
    """Return whether a message matches a pattern, ignoring case."""
    return re.search(words, message, re.IGNORECASE) is not None


def find_refusal(error: Any) -> str:
    """Return the trouble for which the server refused a call; empty if unknown."""
    trouble = find_trouble(error.code, error.param, read_message(error))
    return "closed" if not trouble and error.status_code == 403 else trouble


def find_failure(job: Any) -> str:
    """Return the trouble for which a job failed; empty if unknown."""
    return find_trouble(job.error.code, job.error.param, job.error.message or "") if job.error else ""


def make_refusal(error: Exception, model: str, data: str = "", file: str = "") -> ServerError:
    """Make the error for a call that the server refused for good.

    Args:
        model: the model to fine-tune. data: the name of its rows. file: id of the training file, if the call had one.
    """
    if not isinstance(error, openai.APIStatusError) or error.status_code >= 500:
        return ServerError(explain_error(model, error))
    trouble, message = find_refusal(error), read_message(error)
    if trouble != "quota" and isinstance(error, openai.AuthenticationError | openai.RateLimitError):
        return ServerError(explain_error(model, error))
    sentence = REFUSED.get(trouble, "").format(
        model=model, data=data or "this file", file=f" {file}" if file else "", rows=name_rows(data, message)
    )
    if not sentence:
        setting = name_setting(error.param)
        sentence = f"The server refused to fine-tune {model} as asked ({error.status_code}): change {setting}."
    return ServerError(sentence + quote_service(message))


def make_job_failure(job: Any, data: str) -> JobFailed:
    """Make the error for a job (of the openai package) that ended without a model. `data`: the name of its rows."""
    if job.status == "cancelled":
        return JobFailed(f"The job {job.id} was cancelled: {AGAIN} to start another.", final=False)
    code, message = (job.error.code, job.error.message or "") if job.error else ("", "")
    trouble = find_failure(job)
    if trouble == "moderation" and job.trained_tokens:
        trouble = "unsafe model"
    sentence, final = FAILED.get(trouble, OTHERWISE)
    code, rows = f" ({code})" if code else "", name_rows(data, message)
    return JobFailed(sentence.format(job=job.id, data=data, rows=rows, code=code) + quote_service(message), final)


def name_setting(param: str | None) -> str:
    """Return em's setting that an error's `param` is about."""
    name = (param or "").split(".")[-1].replace("n_epochs", "epochs")
    if name in ("epochs", "batch_size", "learning_rate_multiplier", "suffix"):
        return f"trainer.{name}"
    return "seed" if name == "seed" else "the setting that the server names"


def name_rows(data: str, message: str) -> str:
    """Return the name of the rows that an error is about, with the number of the row that its message names."""
    row = re.search(ROW, message, re.IGNORECASE)
    return ", ".join(filter(None, (data, f"row {row[1]}" if row else ""))) or "its rows"


def read_message(error: Any) -> str:
    """Return the message of an error of the openai package; empty if it has none."""
    return str(error.body.get("message") or "") if isinstance(error.body, Mapping) else ""
