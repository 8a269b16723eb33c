# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Cloud Storage with one empty bucket, in a process of its own: PORT."""

import http.server
import sys
import types

from gcp_storage_emulator.handlers import objects


def _with_generation(handler):
  """Says an object's generation beside its content, as Cloud Storage does and the emulator not.

  TensorStore writes again only what is of the generation that it has read.
  """

  def handle(request, response, storage, *args, **kwargs):
    handler(request, response, storage, *args, **kwargs)
    if response.status in (200, 206):
      about = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
      response["x-goog-generation"] = about["generation"]

  return handle


def _cancelled(request, response, storage, *args, **kwargs):
  """Says of an upload in pieces that it is cancelled, as Cloud Storage does; its object is not."""
  response.status = types.SimpleNamespace(value=499, phrase="Client Closed Request")


def main(port):
  """Answers until it is killed."""
  for name in ("get", "download"):
    setattr(objects, name, _with_generation(getattr(objects, name)))
  # Many ask at once: whom its queue has no room for tries again later, up to half a minute.
  http.server.HTTPServer.request_queue_size = 128
  from gcp_storage_emulator import server  # It takes the handlers as they are.

  for _, methods in server.HANDLERS:
    if objects.upload_partial in methods.values():
      methods["DELETE"] = _cancelled
  server.create_server("localhost", int(port), in_memory=True, default_bucket="bucket").run()


if __name__ == "__main__":
  main(*sys.argv[1:])
