"""Clients of a dukou server, or of any server of the Open Inference Protocol."""
