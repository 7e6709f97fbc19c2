"""Clients of any Open Inference Protocol server. `core` decides and does no I/O; `http` is the sync and async shell."""
