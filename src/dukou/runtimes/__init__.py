"""Artifacts to loaded models: one class a framework, each framework imported in its own file only."""
