"""Decisions about versions: what should be served, what loads next, how a new version is compared, and where its
rollout goes. No I/O here, and pure functions but for what `reconciler` and `retry` remember.
"""
