"""The stand-in's HTTP server: models, adapters, chat completions and the log-probabilities of prompts."""

from __future__ import annotations

import argparse
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.made_vllm import VERSION


class Engine:
    """A base and its adapters by name. Everything is loaded when it is first asked."""

    def __init__(self, options: argparse.Namespace, fault: str, value: str) -> None:
        self.options, self.fault, self.value = options, fault, value
        self.folders = dict.fromkeys(options.served_model_name, "")
        self.models: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.answered = 0

    def load(self, folder: str) -> Any:
        """Load the base, or the base with the adapter in a folder, once; in the way that the fault says."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if folder not in self.models:
            torch.set_num_threads(2)
            self.tokenizer = AutoTokenizer.from_pretrained(self.options.model)
            if self.fault == "other_template":
                self.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
            model = AutoModelForCausalLM.from_pretrained(self.options.model, dtype=torch.float32)
            if self.fault == "other_weights":
                model.model.layers[0].mlp.down_proj.weight.data.mul_(2)
            if folder and self.fault != "no_adapter":
                model = PeftModel.from_pretrained(model, folder)
                for layer in model.modules():
                    if self.fault == "scale" and isinstance(getattr(layer, "scaling", None), dict):
                        layer.scaling = {name: each * float(self.value) for name, each in layer.scaling.items()}
            self.models[folder] = model.eval()
        return self.models[folder]

    def render(self, body: dict[str, Any]) -> Any:
        """Return the ids of a conversation, (1, length)."""
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=body.get("add_generation_prompt", True)
        )
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a request for a chat completion: status and reply."""
        import torch

        refused = [name for name in ("logprobs", "response_format") if body.get(name)]
        if body["model"] not in self.folders or refused:
            return 404 if not refused else 400, {"error": {"message": f"no {body['model']} {refused}"}}
        with self.lock, torch.inference_mode():
            model = self.load(self.folders[body["model"]])
            ids = self.render(body)
            reply: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": body["model"]}
            if "prompt_logprobs" in body:
                logits = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
                of_next = logits.gather(-1, ids[0, 1:, None])[:, 0].tolist()
                pairs = zip(ids[0, 1:].tolist(), of_next, strict=True)
                reply["prompt_logprobs"] = [None, *({str(token): {"logprob": value}} for token, value in pairs)]
            new = self.generate(model, ids, body)
        self.answered += 1
        if self.fault == "crash_after" and self.answered > int(self.value):
            print("(EngineCore pid=1) ERROR 11-30 23:57:30 [core.py:1] RuntimeError: the engine broke", flush=True)
            os._exit(1)
        stopped = bool(new) and new[-1] == self.tokenizer.eos_token_id
        message = {"role": "assistant", "content": self.tokenizer.decode(new, skip_special_tokens=True)}
        reply["choices"] = [{"index": 0, "message": message, "finish_reason": "stop" if stopped else "length"}]
        reply["usage"] = {"prompt_tokens": ids.shape[1], "completion_tokens": len(new), "total_tokens": 0}
        return 200, reply

    def generate(self, model: Any, ids: Any, body: dict[str, Any]) -> list[int]:
        """Generate the ids of an answer, by the request's own seed."""
        import torch

        most = body.get("max_completion_tokens") or body.get("max_tokens")
        options: dict[str, Any] = {"max_new_tokens": most, "pad_token_id": 2, "do_sample": False}
        if temperature := body.get("temperature", 1.0):
            torch.manual_seed(body.get("seed", 0) % 2**63)
            options |= {"do_sample": True, "temperature": temperature, "top_p": body.get("top_p", 1.0), "top_k": 0}
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        new: list[int] = output[0, ids.shape[1] :].tolist()
        return new


def serve(options: argparse.Namespace, fault: str, value: str) -> None:
    """Serve until the process ends."""
    engine = Engine(options, fault, value)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/version":
                return self.reply(200, {"version": VERSION})
            names = [{"id": name, "parent": folder or None} for name, folder in engine.folders.items()]
            return self.reply(200, {"data": names})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/load_lora_adapter":
                folder = body["lora_path"]
                if fault == "refuse_adapter" or not Path(folder, "adapter_config.json").is_file():
                    message = f"Loading lora {body['lora_name']} failed: No adapter found for {folder}"
                    return self.reply(404, {"error": {"message": message}})
                engine.folders[body["lora_name"]] = folder
                return self.reply(200, {})
            if self.path == "/v1/unload_lora_adapter":
                engine.folders.pop(body["lora_name"], None)
                return self.reply(200, {})
            return self.reply(*engine.complete(body))

        def reply(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None:
            """Stay silent, as with --disable-uvicorn-access-log."""

    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    print("(APIServer pid=1) INFO 11-30 23:16:18 [launcher.py:1] Application startup complete.", flush=True)
    server.serve_forever()
