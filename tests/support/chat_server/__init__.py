"""A real OpenAI-compatible server in a process of its own, for tests and benchmarks: a judge, and its bad days.

    python -m tests.support.chat_server --port 0 --latency 0.2 --rate-limited 0.1   (prints its port as the first line)

    with ChatServer(latency=0.2, rate_limited=0.1) as server:
        ...                                # talk to server.base_url
        assert server.stats()["duplicates"] == 0

What it answers depends on the prompt alone (`replies`), how it fails on a seed and the number of the arrival
(`faults`); what it was asked is counted (`record`). `Options` lists the settings, `models` the kinds of models by
the first word of their names, `batches` has the Batch API, `tuning` fine-tuning. `make openai-stub` starts one with the
names of OpenAI's models.
"""

from .options import Options
from .process import ChatServer

__all__ = ["ChatServer", "Options"]
