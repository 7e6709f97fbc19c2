"""Observers: callables that take one Event."""
