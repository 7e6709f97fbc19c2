"""The processes: a supervisor that starts, watches, drains and restarts workers. Never on the path of a request."""
