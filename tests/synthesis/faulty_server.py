# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A server of OpenAI's chat completions, on a real socket, that fails as often as it is told to.

It answers through any `LLM`. Which attempts fail, and how, follows from (request, number of the
attempt). To try a config of an LLM without one:

python -m tests.synthesis.faulty_server --port=8000 --faults=0.3
"""

import argparse
import asyncio
import collections
import hashlib
import http.server
import json
import threading

from fspo_jax.synthesis.llm import Request

FAULTS = ("rate limit", "server error", "timeout", "cut", "broken", "truncated", "wrong schema")
_SCHEMA_TOLD = "\n\nAnswer in JSON, by the schema "


class FaultyServer:
  """Serves in threads of this process, inside a `with` statement.

  Attributes:
    attempts: what was seen, in order: (key of the request, fault or '').
    headers: the headers of the last attempt.
    most_at_once: how many attempts were served at the same time at most.
  """

  def __init__(self, llm, faults=0.0, *, stall_s=60.0, plan=None, port=0):
    """`plan(key, attempt)` names the fault of an attempt, from 0; None: a share of `faults`."""
    self.attempts, self.headers, self.most_at_once = [], {}, 0
    self._llm, self._faults, self._stall_s, self._plan = llm, faults, stall_s, plan
    self._lock, self._stop, self._serving = threading.Lock(), threading.Event(), 0
    self._seen = collections.Counter()
    self._http = _Server(("127.0.0.1", port), _Handler)
    self._http.daemon_threads, self._http.owner = True, self
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

  def __enter__(self):
    threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
    return self

  def __exit__(self, *error):
    self._stop.set()
    self._http.shutdown()
    self._http.server_close()

  def serve(self, handler):
    size = int(handler.headers["Content-Length"])
    body = handler.rfile.read(size)
    if len(body) < size:  # The client was killed, or lost patience.
      handler.close_connection = True
      return
    request = read_request(json.loads(body))
    with self._lock:
      self._serving += 1
      self.most_at_once = max(self.most_at_once, self._serving)
      attempt = self._seen[request.key]
      self._seen[request.key] += 1
      fault = (self._plan or self._choose)(request.key, attempt)
      self.attempts.append((request.key, fault))
      self.headers = handler.headers
    try:
      self._reply(handler, request, fault)
    finally:
      with self._lock:
        self._serving -= 1

  def _choose(self, key, attempt):
    digest = hashlib.sha256(f"{key} {attempt}".encode()).digest()
    if int.from_bytes(digest[:6]) / 2**48 >= self._faults:
      return ""
    # A time-out costs more time than all the others, so it has half a share.
    return (*FAULTS, *FAULTS[:2], *FAULTS[3:])[digest[6] % (2 * len(FAULTS) - 1)]

  def _reply(self, handler, request, fault):
    if fault == "timeout":
      self._stop.wait(self._stall_s)
      handler.close_connection = True
      return
    if fault == "rate limit":
      return handler.reply(429, _error("slow down"), {"Retry-After": "0.05"})
    if fault == "server error":
      return handler.reply(500, _error("something broke"))
    if fault.startswith("http "):  # 'http 401', or 'http 429 insufficient_quota'
      status, *code = fault.split()[1:]
      # Some servers show what they were sent.
      said = f"refused, with Authorization {handler.headers['Authorization']}"
      return handler.reply(int(status), _error(said, *code))
    content = json.dumps(asyncio.run(self._llm.answer(request)))
    finish, refusal = "stop", None
    match fault:
      case "broken":
        content = content[:-1] + ',,"]'
      case "truncated":
        content, finish = content[: len(content) // 2], "length"
      case "wrong schema":
        content = '{"unexpected": 1}'
      case "half a character":
        content = '{"response": "\\ud83d"}'
      case "leak":
        content = json.dumps({"response": handler.headers["Authorization"]})
      case "filter":
        finish = "content_filter"
      case "refusal":
        content, refusal = None, "I cannot help with that."
      case "no completion":
        return handler.reply(200, {"choices": []})
      case "not json":
        return handler.reply(200, "<html>")
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    completion = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0}
    completion |= {"model": request.model, "choices": [choice]}
    handler.reply(200, completion, cut=fault == "cut")


class _Server(http.server.ThreadingHTTPServer):
  request_queue_size = 128  # connections at once; of more than the default, 5, some may be reset


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_POST(self):
    if self.path != "/v1/chat/completions":
      return self.reply(404, _error(f"no {self.path}"))
    self.server.owner.serve(self)

  def reply(self, status, body, headers=None, *, cut=False):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    try:
      self.send_response(status)
      for name, value in (headers or {}).items():
        self.send_header(name, value)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data[: len(data) // 2] if cut else data)
    except ConnectionError:  # The client was killed, or lost patience.
      cut = True
    self.close_connection |= cut

  def handle(self):
    try:
      super().handle()
    except ConnectionError:
      pass

  def log_message(self, *args):
    pass


def read_request(body):
  """The request that an HTTP body was made of; all but its stage."""
  texts = {message["role"]: message["content"] for message in body["messages"]}
  system, form = texts.get("system", ""), body["response_format"]
  if form["type"] == "json_schema":
    assert form["json_schema"]["strict"]
    name, schema = form["json_schema"]["name"], json.dumps(form["json_schema"]["schema"])
  else:
    system, _, told = system.partition(_SCHEMA_TOLD)
    name, _, schema = told.partition(":\n")
  return Request(
    stage="",
    model=body["model"],
    system=system,
    prompt=texts["user"],
    schema_name=name,
    schema=schema,
    temperature=body["temperature"],
    seed=body["seed"],
    max_tokens=body["max_tokens"],
  )


def _error(message, code=None):
  return {"error": {"message": message, "type": "error", "param": None, "code": code}}


def main():
  from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
  from fspo_jax.worlds.reviews import ReviewsWorld

  parser = argparse.ArgumentParser(description="A faulty server that answers for the reviews world")
  parser.add_argument("--port", type=int, default=8000)
  parser.add_argument("--faults", type=float, default=0.3)
  args = parser.parse_args()
  world = ReviewsWorld()
  llm = WorldLLM(world, Flaws(), world.users("train"))
  with FaultyServer(llm, args.faults, port=args.port) as server:
    print(f"serving {server.url}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
  main()
