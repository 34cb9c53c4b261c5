"""A real OpenAI-compatible server in its own process, for tests and benchmarks; it can also fail on purpose.

    python -m tests.support.chat_server --port 0 --latency 0.2 --rate-limited 0.1   (prints its port as the first line)

    with ChatServer(latency=0.2, rate_limited=0.1) as server:
        ...                                # talk to server.base_url
        assert server.stats()["duplicates"] == 0

Replies depend on the prompt alone (`replies`), faults on a seed and the number of the request (`faults`). The server
counts its requests and answers (`record`). `Options` lists the settings, `models` the kinds of models by the first word
of their names, `batches` has the Batch API, `tuning` fine-tuning. `make openai-stub` starts a server with the names of
OpenAI's models.
"""

from .options import Options
from .process import ChatServer

__all__ = ["ChatServer", "Options"]
