"""Sockets to calls of the data plane and back: listeners, HTTP/1.1, routes, status tables.

Three layers, each tested without the one below it: `http1` turns bytes into requests and knows no asyncio; `connection`
owns one transport (order, timeouts, backpressure); `listener`, `routes`, `calls` and `pages` decide what the answer is.
"""
