"""From a trained model file to a packed version: compile, gather evidence, write."""
