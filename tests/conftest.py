"""Fixtures that all tests share: their own cache, no keys, few threads, the embedded model, servers on loopback."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from em.models.weights import resolve_weights
from em.runtime.files import find_cache_folder
from em.runtime.memory import Calls
from em.types import Weights
from tests.support.chat_server import ChatServer, Options
from tests.support.forking import Forking
from tests.support.tiny import write_chats, write_tiny_model

ROOT = Path(__file__).parent.parent
FOREIGN = (
    *("EM_MIRROR", "EM_FAILURE", "EM_PARENT", "HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "WANDB_API_KEY"),
    *(
        "OPENAI_API_KEY_FILE",
        "WANDB_MODE",
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "TORCHELASTIC_RUN_ID",
        "HYDRA_FULL_ERROR",
    ),
)
Handler = type[BaseHTTPRequestHandler]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests their own cache folder, with links to the user's packages and converted weights."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "em").mkdir()
    for name in ("packages", "weights"):
        (find_cache_folder() / name).mkdir(parents=True, exist_ok=True)
        (cache / "em" / name).symlink_to(find_cache_folder() / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        # What libraries leave in the temporary folder (torchrun's logs, W&B's uploads) goes with the tests' own.
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "passive"))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove keys, mirrors and ranks of a launcher from the environment, and use at most two threads."""
    for variable in FOREIGN:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)  # no login to W&B either
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The embedded model's weights, converted once into the user's cache."""
    return resolve_weights("embedded:smollm2")


@pytest.fixture(scope="session")
def model(weights: Weights) -> Any:
    """The embedded model, loaded once in float32 on the CPU."""
    import torch

    from em.models.device import load_model

    torch.set_num_threads(min(2, torch.get_num_threads()))
    return load_model(weights.path, torch.float32).eval().cpu()


@pytest.fixture
def tokenizer(weights: Weights) -> Any:
    """The embedded model's tokenizer, loaded for each test, because some tests change its template."""
    from em.models.chat import load_tokenizer

    return load_tokenizer(weights.path)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of third-party files; skips the test if it is missing."""
    folder = ROOT.parent / "shared" / "mirror"
    if not folder.is_dir():
        pytest.skip("no ../shared/mirror: third-party data is not in the project")
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], str]]:
    """A function that starts an HTTP server on 127.0.0.1 with a handler, and returns the server's base URL."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(handler: Handler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    """One chat server for all tests of a file; a file may set its options in its own fixture `server`."""
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """The chat server, reset to its initial state."""
    running.reset(**vars(Options()))
    return running


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Calls]:
    """An empty cache of calls."""
    with Calls(tmp_path) as opened:
        yield opened


@pytest.fixture
def closed_port() -> str:
    """The address of a port on 127.0.0.1 on which no server listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def em(_cache_of_the_tests: None) -> Iterator[Forking]:
    """Run scripts of em in forked processes."""
    with Forking() as forking:
        yield forking


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> list[str]:
    """Words of a run: a tiny model, 7 rows of data, no evaluation."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "model", weights.path)
    rows = write_chats(folder / "rows.jsonl", 7)
    return [f"model.id={folder / 'model'}", "data=file", f"data.path={rows}", "eval=none"]
