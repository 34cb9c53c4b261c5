"""A job of a service as it is noted: `<store>/models/<fingerprint>.job.json`.

The note is there from before a job is created until its model is remembered: a run that was stopped in between goes on
with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4


class JobNote:
    """Where a job is noted until its model is remembered; what was noted before is read from there.

    job: its id; empty as long as it was not created. attempt: a word that only this attempt to create one carries.
    """

    def __init__(self, models: Path, mark: str, server: str, chain: str) -> None:
        self.path, self.server, self.chain = models / f"{mark}.job.json", server, chain
        self.job = self.attempt = ""
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
            self.job, self.attempt = str(noted["id"]), str(noted.get("attempt", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    @property
    def unfinished(self) -> bool:
        """Whether a job was created, or may have been, whose model is not remembered."""
        return bool(self.job or self.attempt)

    def begin(self) -> str:
        """Note that a job is about to be created; the word that it is to carry."""
        self.job, self.attempt = "", uuid4().hex
        self.write()
        return self.attempt

    def keep(self, job: str) -> None:
        """Note a job."""
        if job != self.job:
            self.job = job
            self.write()

    def write(self) -> None:
        """Write the note, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        noted = {"id": self.job, "attempt": self.attempt, "server": self.server, "chain": self.chain}
        whole(self.path, json.dumps(noted))

    def forget(self) -> None:
        """Its job is over."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".losses").unlink(missing_ok=True)
        self.job = self.attempt = ""


def whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
