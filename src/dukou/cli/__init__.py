"""The `dukou` command: one file a command group."""
