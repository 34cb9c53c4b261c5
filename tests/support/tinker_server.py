"""A stand-in for Tinker's service, over real HTTP, as far as em uses it: sessions, training runs, steps, checkpoints.

The service learns nothing: the loss of a step falls with the number of steps before it.
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
    """The state of the service: runs, checkpoints, results and calls. `fail_at`: a step that gets 404."""

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

    def make_handler(self) -> type[BaseHTTPRequestHandler]:
        """Make the handler of the service's requests."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_reply(service.handle_get(self.path.split("?")[0]))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with service.lock:
                    self.send_reply(service.handle_post(self.path.removeprefix("/api/v1/"), raw))

            def send_reply(self, result: Any) -> None:
                status, result = (result, {"detail": "no"}) if isinstance(result, int) else (200, result)
                proto = isinstance(result, bytes)
                content = result if proto else json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf" if proto else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def handle_get(self, path: str) -> Any:
        """Return the list of runs, or the list of a run's checkpoints."""
        parts = path.removeprefix("/api/v1/").split("/")
        if parts == ["training_runs"]:
            runs = [{k: v for k, v in run.items() if k != "steps"} for run in self.runs.values()]
            return {"training_runs": runs, "cursor": {"offset": 0, "limit": 100, "total_count": len(runs)}}
        checkpoints = [each for each in self.kept.values() if each["tinker_path"].split("/")[2] == parts[1]]
        return {"checkpoints": [{k: v for k, v in each.items() if k != "steps"} for each in checkpoints]}

    def handle_post(self, call: str, raw: bytes) -> Any:
        """Return the result of a call; `retrieve_future` returns the results of slow calls."""
        if call == "forward_backward":
            return self.store_result(call, self.compute_logprobs(raw))
        fields = json.loads(raw) if raw else {}
        match call:
            case "client/config":
                return {"pjwt_auth_enabled": False, "use_pyqwest_transport": False}
            case "client/dynamic_config" | "session_heartbeat":
                return {}
            case "create_session":
                self.sessions += 1
                return {"session_id": f"session-{self.sessions}"}
            case "retrieve_future":
                return self.results[fields["request_id"]]
            case "get_info":
                return {"model_id": fields["model_id"], "model_data": {"model_name": "open"}, "is_lora": True}
            case "create_model":
                return self.store_result(call, {"model_id": self.begin_run(fields, 0, fields["base_model"])})
            case "load_weights":
                state = self.kept[fields["path"]]
                return self.store_result(
                    call, {"model_id": self.begin_run(fields, state["steps"], "open"), "path": fields["path"]}
                )
            case "optim_step":
                run = self.runs[fields["model_id"]]
                if self.fail_at == run["steps"] + 1:
                    return 404
                run["steps"] += 1
                self.rates.append((fields.get("adam_params") or fields["optim_params"])["learning_rate"])
                return self.store_result(call, {"metrics": {}})
            case "save_weights":
                return self.store_result(call, {"path": self.save_checkpoint(fields, "weights", "training")})
            case "save_weights_for_sampler":
                return self.store_result(call, {"path": self.save_checkpoint(fields, "sampler_weights", "sampler")})
        raise AssertionError(call)

    def store_result(self, call: str, result: Any) -> dict[str, str]:
        """Store a result, and return the request id that fetches it."""
        self.calls.append(call)
        name = f"request-{len(self.results)}"
        self.results[name] = result
        return {"request_id": name}

    def begin_run(self, fields: dict[str, Any], steps: int, base: str) -> str:
        """Begin a new training run, and return its id."""
        name = f"{fields['session_id']}:train:{fields['model_seq_id']}"
        self.runs[name] = {
            "training_run_id": name,
            "base_model": base,
            "model_owner": "me",
            "is_lora": True,
            "last_request_time": datetime.now(UTC).isoformat(),
            "user_metadata": fields.get("user_metadata"),
            "steps": steps,
        }
        return name

    def save_checkpoint(self, fields: dict[str, Any], folder: str, kind: str) -> str:
        """Save a checkpoint of a run, and return its path."""
        path = f"tinker://{fields['model_id']}/{folder}/{fields['path']}"
        now = datetime.now(UTC).isoformat()
        record = {"checkpoint_id": f"{folder}/{fields['path']}", "checkpoint_type": kind, "time": now}
        self.kept[path] = record | {"tinker_path": path, "steps": self.runs[fields["model_id"]]["steps"]}
        return path

    def compute_logprobs(self, raw: bytes) -> bytes:
        """Return the log-probabilities of a batch's tokens."""
        request = pb.ForwardBackwardRequest()
        request.ParseFromString(raw)
        weights = [np.frombuffer(each.loss_fn_inputs["weights"].dense, dtype=np.float32) for each in request.data]
        self.weights.append(float(sum(each.sum() for each in weights)))
        logprob = np.float32(-2 / (1 + self.runs[request.model_id]["steps"]))
        offsets = np.cumsum([0, *(4 * len(each) for each in weights)]).astype(np.int64)
        data = np.full(sum(map(len, weights)), logprob, dtype=np.float32).tobytes()
        tensor = pb.BatchedTensor(data=data, offsets=offsets.tobytes(), dtype=pb.DTYPE_FLOAT32)
        record = pb.ArrayRecord(fields={"logprobs": tensor}, num_datums=len(weights))
        output = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", loss_fn_outputs=[record])
        return bytes(output.SerializeToString())
