"""What a service's refusals and failed jobs mean for the user, and whether asking again can help.

The service's own code decides first, then what its error is about (`param`), then its words: a refusal of rows may
speak of credit cards, and one of a setting of the model. Its words are told behind ours, shortened, and without
anything that looks like a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from em.api.client import in_words
from em.api.lifetimes import CLOSED, LAST_JOB
from em.errors import ServerError
from em.runtime.keys import without_secrets
from em.train.remote.service import JobFailed


class Trouble(Enum):
    """What a service has against a job."""

    moderation = "moderation"
    quota = "quota"
    rows = "rows"
    file_gone = "file_gone"
    setting = "setting"
    model = "model"
    closed = "closed"
    scopes = "scopes"
    server = "server"
    unknown = "unknown"


BY_CODE = {
    code: trouble
    for trouble, codes in {
        Trouble.moderation: (
            *("unsafe_training_file", "unsafe_validation_file", "unsafe_file", "unsafe_model"),
            *("content_policy_violation", "moderation_blocked", "usage_policy_violation"),
        ),
        Trouble.quota: ("insufficient_quota", "exceeded_quota", "billing_hard_limit_reached", "billing_not_active"),
        Trouble.rows: ("invalid_n_examples", "invalid_file_format", "invalid_jsonl", "invalid_json_line"),
        Trouble.file_gone: ("file_not_found", "file_expired", "file_deleted"),
        Trouble.setting: ("invalid_hyperparameter", "invalid_hyperparameters", "invalid_suffix", "invalid_seed"),
        Trouble.model: ("model_not_available", "model_not_found", "invalid_model"),
        Trouble.closed: ("fine_tuning_not_enabled", "fine_tuning_disabled", "fine_tuning_not_available"),
        Trouble.scopes: ("missing_scope", "missing_scopes", "insufficient_permissions"),
        Trouble.server: ("server_error", "internal_error", "service_unavailable"),
    }.items()
    for code in codes
}
MODERATION = re.compile(
    r"moderation|unsafe|(usage|content) polic|hateful|refusals_v|(blocked|refused|rejected|failed)\b.{0,20}\bsafety",
    re.IGNORECASE,
)
BY_WORDS = (
    (Trouble.closed, r"no longer available (for|to) (your|this) (organi[sz]ation|account)|fine-?tuning (platform|API)"),
    (Trouble.scopes, r"missing scope|insufficient permission"),
    (Trouble.moderation, MODERATION.pattern),
    (Trouble.quota, r"quota|billing|hard limit|\bcredits?\b(?! card)"),
    (Trouble.file_gone, r"\bfile\b.*\b(expired|deleted|does not exist|not found|no longer)"),
    (
        Trouble.model,
        r"not available for fine-?tuning|(can't|cannot) be fine-?tuned|\bmodel\b.*\b(exist|supported|found)",
    ),
)
GONE = re.compile(r"expired|deleted|no longer|no such file|does not exist|not found", re.IGNORECASE)
ROW = re.compile(r"\b(?:line|example|row)s? #?(\d+)", re.IGNORECASE)
SETTINGS = {"n_epochs": "epochs"}
"""What a setting of the trainer is called here, where its name differs."""
AGAIN = "run the same command again"
FINAL = "would again, so the same is not tried a second time: choose other rows or an open model (model=llama8b)"


def trouble_of(code: str | None, param: str | None, message: str) -> Trouble:
    """What an error is of: by its code, else by what it is about, else by its words."""
    if code in BY_CODE:
        return BY_CODE[code]
    about = (param or "").split(".")[0]
    if about in ("training_file", "validation_file", "file") or code == "invalid_training_file":
        return trouble_of_file(message)
    if about == "model":
        return Trouble.model
    if about in ("hyperparameters", "method", "suffix", "seed", "metadata", "integrations"):
        return Trouble.setting
    found = (trouble for trouble, words in BY_WORDS if re.search(words, message, re.IGNORECASE))
    return next(found, Trouble.unknown)


def trouble_of_file(message: str) -> Trouble:
    """What an error of a training file is of; one that names a row can read the file."""
    if MODERATION.search(message):
        return Trouble.moderation
    return Trouble.file_gone if GONE.search(message) and not ROW.search(message) else Trouble.rows


def refused_for(error: Any) -> Trouble:
    """What a call was refused for."""
    found = trouble_of(error.code, error.param, message_of(error.body))
    return Trouble.closed if found is Trouble.unknown and error.status_code == 403 else found


def refusal(error: Exception, model: str, data: str = "", file: str = "") -> ServerError:
    """The error for a call that the server refused for good.

    Args:
        model: what was to be fine-tuned; data: on what. file: the training file, where the call named one.
    """
    import openai

    if not isinstance(error, openai.APIStatusError) or error.status_code >= 500:
        return ServerError(in_words(model, error))
    found, said = refused_for(error), told(error.body)
    if found is not Trouble.quota and isinstance(error, openai.AuthenticationError | openai.RateLimitError):
        return ServerError(in_words(model, error))
    return ServerError(refused(found, error, model, data, file) + said)


def refused(trouble: Trouble, error: Any, model: str, data: str, file: str) -> str:
    """A refused call in our words."""
    match trouble:
        case Trouble.closed:
            return (
                f"This account may not fine-tune {model}: OpenAI has closed fine-tuning to organisations that had not "
                f"used it by {CLOSED}, and takes no new job after {LAST_JOB}; use the key of one that may, or an open "
                "model (model=llama8b)."
            )
        case Trouble.scopes:
            return (
                f"The key may not fine-tune {model}: give it the scopes that are missing (api.fine_tuning, files), or "
                "take a key with all permissions."
            )
        case Trouble.quota:
            return f"The account has no credit left to fine-tune {model}: top it up, then {AGAIN}."
        case Trouble.moderation:
            return f"The provider's moderation refused the rows of {data or 'this file'}, and {FINAL}."
        case Trouble.file_gone:
            return f"The server can't use the uploaded file{file and ' '}{file} any more: {AGAIN} to upload anew."
        case Trouble.rows:
            return (
                f"The server refused the training file ({of_rows(data, error.body)}): mend or leave out what it names."
            )
        case Trouble.model:
            return (
                f"{model} is not available for fine-tuning at this server: choose another by model.id=…, or an open "
                "model (model=llama8b)."
            )
        case _:
            return (
                f"The server refused to fine-tune {model} as asked ({error.status_code}): change "
                f"{setting_of(error.param)}."
            )


def setting_of(param: str | None) -> str:
    """The setting here that an error's `param` is about."""
    name = (param or "").split(".")[-1]
    name = SETTINGS.get(name, name)
    if name == "seed":
        return "seed"
    known = name in ("epochs", "batch_size", "learning_rate_multiplier", "suffix")
    return f"trainer.{name}" if known else "the setting that it names"


def of_rows(data: str, body: object) -> str:
    """The rows that an error is about, with the row that its words name."""
    row = f"row {found[1]}" if (found := ROW.search(message_of(body))) else ""
    return ", ".join(filter(None, (data, row))) or "its rows"


def failed_for(job: Any) -> Trouble:
    """What a job failed for."""
    error = job.error
    return trouble_of(error.code, error.param, error.message or "") if error else Trouble.unknown


def failure(job: Any, data: str) -> JobFailed:
    """The error for a job that ended without a model.

    Args:
        job: as the openai package gives it. data: what it was trained on.
    """
    if job.status == "cancelled":
        return JobFailed(f"The job {job.id} was cancelled: {AGAIN} to start another.", final=False)
    code, message = (job.error.code or "", job.error.message or "") if job.error else ("", "")
    body = {"message": message}
    sentence, final = ended(failed_for(job), job, data, body, code)
    return JobFailed(sentence + told(body), final)


def ended(trouble: Trouble, job: Any, data: str, body: object, code: str) -> tuple[str, bool]:
    """A failed job in our words, and whether the same would fail again."""
    match trouble:
        case Trouble.quota:
            return f"The account's credit does not cover the job {job.id} on {data}: top it up, then {AGAIN}.", False
        case Trouble.moderation:
            return moderated(job, data), True
        case Trouble.file_gone:
            return f"The training file of the job {job.id} is not there any more: {AGAIN} to upload anew.", False
        case Trouble.rows:
            where = f"{of_rows(data, body)}; job {job.id}"
            return f"The server refused the training file ({where}): mend or leave out what it names.", True
        case _:
            why = f" ({code})" if code else ""
            return f"The job {job.id} failed at the server{why}: {AGAIN} to start another.", False


def moderated(job: Any, data: str) -> str:
    """The refusal of a job for what its rows or its model say."""
    if job.trained_tokens:
        what = f"The model that the job {job.id} made of {data} failed the provider's safety checks after the training"
    else:
        what = f"The provider's moderation refused the rows of {data} before the training (job {job.id})"
    return f"{what}, and {FINAL}; force=true tries all the same."


def told(body: object) -> str:
    """A server's own words, to follow a sentence of ours."""
    message = " ".join(message_of(body).split())
    return f" It says: {without_secrets(message)[:300]}" if message else ""


def message_of(body: object) -> str:
    """The message of an error object."""
    return str(body.get("message") or "") if isinstance(body, Mapping) else ""
