"""Sockets to calls: listeners, HTTP/1.1, routes and the status tables."""
