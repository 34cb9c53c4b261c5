"""Sentences for a service's refusals and failed jobs: by its code first, then by the subject, then by its words."""

from __future__ import annotations

import httpx2
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.fine_tuning_job import Error

from em.errors import ServerError
from em.train.remote.openai.errors import make_job_failure, make_refusal
from em.train.remote.service import JobFailed

KINDS = {400: openai.BadRequestError, 403: openai.PermissionDeniedError, 429: openai.RateLimitError}


def make_error(status: int, code: str | None, param: str | None, message: str) -> openai.APIStatusError:
    """Return an error as the openai package raises it."""
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://127.0.0.1"))
    body = {"message": message, "code": code, "param": param}
    return KINDS[status](message, response=response, body=body)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("status", "code", "param", "message", "sentence"),
    [
        (400, "invalid_training_file", "training_file", "Invalid file format. Line 3, message 2 has no content.",
         r"refused the training file \(mine, row 3\): correct"),
        (400, "invalid_training_file", "training_file", "The file has expired.", "use the uploaded file file-1"),
        (400, "invalid_file", "file", "Invalid file: line 3 is not JSON for this model", r"\(mine, row 3\): correct"),
        (400, "unsafe_training_file", "training_file", "The file was blocked: it names the quota of a credit card",
         "moderation refused the rows of mine, and would again"),
        (400, None, None, "This file violates our usage policies", "moderation refused the rows of mine"),
        (400, "exceeded_quota", None, "Creating this job would exceed your hard limit", "no credit left to fine-tune"),
        (429, "insufficient_quota", None, "You exceeded your quota.", "no credit left to fine-tune m: top it up"),
        (400, "invalid_hyperparameter", "hyperparameters.batch_size", "300 is too large for this model.",
         r"refused to fine-tune m as asked \(400\): change trainer.batch_size. It says: 300 is"),
        (400, "invalid_value", "hyperparameters.n_epochs", "too many", "change trainer.epochs"),
        (400, "invalid_value", "suffix", "suffix for the model must be at most 18 characters", "change trainer.suffix"),
        (400, "invalid_value", "seed", "no", "change seed"),
        (400, "x", None, "no", "change the setting that the server names"),
        (400, "fine_tuning_not_enabled", None, "No.", "has closed fine-tuning .* by 2026-07-02, .* after 2027-01-06"),
        (400, None, None, "Fine-tuning is no longer available for your organization.", "closed .* by 2026-07-02"),
        (403, "permission_denied", None, "You do not have access.", "closed .* by 2026-07-02"),
        (403, "missing_scope", None, "Missing scopes: api.fine_tuning.jobs.write", "give it the scopes"),
        (403, None, None, "You have insufficient permissions. Missing scopes: x", "give it the scopes"),
        (403, "model_not_found", None, "Project has no access to model m", "m is not available for fine-tuning"),
        (400, "invalid_value", "model", "quota", "m is not available for fine-tuning at this server"),
    ],
)  # fmt: skip
def test_a_refused_call_is_told_in_words(
    status: int, code: str | None, param: str | None, message: str, sentence: str
) -> None:
    with pytest.raises(ServerError, match=sentence):
        raise make_refusal(make_error(status, code, param, message), "m", "mine", "file-1")


@pytest.mark.parametrize(
    ("code", "message", "param", "tokens", "sentence", "final"),
    [
        ("unsafe_training_file", "This file was blocked: it holds credit card numbers.", "training_file", None,
         "moderation refused the rows of mine before the training", True),
        ("invalid_training_file", "412 examples contain hateful content; usage policies", "training_file", None,
         "moderation refused the rows", True),
        (None, "The model was blocked by a safety evaluation", None, 9, "failed the provider's safety checks", True),
        ("server_error", "The safety evaluation could not be run; please retry.", None, None,
         r"failed at the server \(server_error\): run the same", False),
        ("invalid_n_examples", "Training file has 8 example(s), but must have at least 10 examples", "training_file",
         None, r"refused the training file \(mine; job ftjob-1\)", True),
        ("invalid_file_format", "Invalid file format. Example 12 not found role", "training_file", None,
         r"\(mine, row 12; job ftjob-1\)", True),
        ("invalid_training_file", "The training file has been deleted", "training_file", None, "file anew", False),
        ("exceeded_quota", "No.", None, None, "credit does not cover the job ftjob-1 on mine", False),
        (None, "You have no credits left", None, None, "credit does not cover", False),
    ],
)  # fmt: skip
def test_a_failed_job_is_told_in_words(
    code: str | None, message: str, param: str | None, tokens: int | None, sentence: str, final: bool
) -> None:
    details = {"code": code, "message": message, "param": param}
    job = FineTuningJob.model_construct(
        id="ftjob-1", status="failed", error=Error.model_construct(**details),
        trained_tokens=tokens,
    )  # fmt: skip
    with pytest.raises(JobFailed, match=sentence) as raised:
        raise make_job_failure(job, "mine")
    assert raised.value.final is final
