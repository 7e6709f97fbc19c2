"""Clients of any Open Inference Protocol server, over HTTP and gRPC: `core` decides and does no I/O, `client` is the
sync and the async shell."""
