"""A stand-in for Tinker's service as far as em uses it: sessions, training runs, steps, checkpoints; over real HTTP.

It learns nothing: the loss of a step falls with the number of steps that the weights have behind them.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from tinker.proto import tinker_public_pb2 as pb


class Tinker:
    """What the service has: runs, what they kept, and what it was asked. `fail_at`: a step that is refused (404)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, dict[str, Any]] = {}
        self.results: dict[str, Any] = {}
        self.calls: list[str] = []
        self.rates: list[float] = []
        self.weights: list[float] = []
        self.fail_at = 0
        self.sessions = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The handler of its requests."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(service.get(self.path.split("?")[0]))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with service.lock:
                    self.reply(service.post(self.path.removeprefix("/api/v1/"), raw))

            def reply(self, found: Any) -> None:
                status, found = (found, {"detail": "no"}) if isinstance(found, int) else (200, found)
                proto = isinstance(found, bytes)
                content = found if proto else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf" if proto else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def get(self, path: str) -> Any:
        """Lists of runs and of what they kept."""
        parts = path.removeprefix("/api/v1/").split("/")
        if parts == ["training_runs"]:
            found = [{k: v for k, v in run.items() if k != "steps"} for run in self.runs.values()]
            return {"training_runs": found, "cursor": {"offset": 0, "limit": 100, "total_count": len(found)}}
        kept = [each for each in self.kept.values() if each["tinker_path"].split("/")[2] == parts[1]]
        return {"checkpoints": [{k: v for k, v in each.items() if k != "steps"} for each in kept]}

    def post(self, call: str, raw: bytes) -> Any:
        """One call; what takes time there is fetched by `retrieve_future`."""
        if call == "forward_backward":
            return self.later(call, self.forward(raw))
        asked = json.loads(raw) if raw else {}
        match call:
            case "client/config":
                return {"pjwt_auth_enabled": False, "use_pyqwest_transport": False}
            case "client/dynamic_config" | "session_heartbeat":
                return {}
            case "create_session":
                self.sessions += 1
                return {"session_id": f"session-{self.sessions}"}
            case "retrieve_future":
                return self.results[asked["request_id"]]
            case "get_info":
                return {"model_id": asked["model_id"], "model_data": {"model_name": "open"}, "is_lora": True}
            case "create_model":
                return self.later(call, {"model_id": self.begin(asked, 0, asked["base_model"])})
            case "load_weights":
                state = self.kept[asked["path"]]
                return self.later(call, {"model_id": self.begin(asked, state["steps"], "open"), "path": asked["path"]})
            case "optim_step":
                run = self.runs[asked["model_id"]]
                if self.fail_at == run["steps"] + 1:
                    return 404
                run["steps"] += 1
                self.rates.append((asked.get("adam_params") or asked["optim_params"])["learning_rate"])
                return self.later(call, {"metrics": {}})
            case "save_weights":
                return self.later(call, {"path": self.keep(asked, "weights", "training")})
            case "save_weights_for_sampler":
                return self.later(call, {"path": self.keep(asked, "sampler_weights", "sampler")})
        raise AssertionError(call)

    def later(self, call: str, result: Any) -> dict[str, str]:
        """The promise of a result."""
        self.calls.append(call)
        name = f"request-{len(self.results)}"
        self.results[name] = result
        return {"request_id": name}

    def begin(self, asked: dict[str, Any], steps: int, base: str) -> str:
        """A new training run."""
        name = f"{asked['session_id']}:train:{asked['model_seq_id']}"
        self.runs[name] = {
            "training_run_id": name,
            "base_model": base,
            "model_owner": "me",
            "is_lora": True,
            "last_request_time": datetime.now(UTC).isoformat(),
            "user_metadata": asked.get("user_metadata"),
            "steps": steps,
        }
        return name

    def keep(self, asked: dict[str, Any], folder: str, kind: str) -> str:
        """Keep the weights of a run as they are."""
        path = f"tinker://{asked['model_id']}/{folder}/{asked['path']}"
        now = datetime.now(UTC).isoformat()
        told = {"checkpoint_id": f"{folder}/{asked['path']}", "checkpoint_type": kind, "time": now}
        self.kept[path] = told | {"tinker_path": path, "steps": self.runs[asked["model_id"]]["steps"]}
        return path

    def forward(self, raw: bytes) -> bytes:
        """The log-probabilities of a batch's tokens."""
        asked = pb.ForwardBackwardRequest()
        asked.ParseFromString(raw)
        given = [np.frombuffer(each.loss_fn_inputs["weights"].dense, dtype=np.float32) for each in asked.data]
        self.weights.append(float(sum(each.sum() for each in given)))
        chance = np.float32(-2 / (1 + self.runs[asked.model_id]["steps"]))
        sizes = np.cumsum([0, *(4 * len(each) for each in given)]).astype(np.int64)
        data = np.full(sum(map(len, given)), chance, dtype=np.float32).tobytes()
        told = pb.BatchedTensor(data=data, offsets=sizes.tobytes(), dtype=pb.DTYPE_FLOAT32)
        record = pb.ArrayRecord(fields={"logprobs": told}, num_datums=len(given))
        return bytes(
            pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", loss_fn_outputs=[record]).SerializeToString()
        )
