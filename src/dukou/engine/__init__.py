"""The stages behind `bind`: the driver that runs them, batching, execution. No protocol, no file, no framework here."""
