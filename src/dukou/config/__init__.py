"""All settings: one frozen tree, one loader. Nothing else in dukou has defaults, reads a settings file or touches the
environment.

A part of dukou is given its own section (`EngineConfig`), never the whole tree.
"""

from dukou.config.address import parse_address
from dukou.config.load import Given, Settings, debugging, load, user_cache_dir
from dukou.config.tree import (
    Config,
    EngineConfig,
    Http2Config,
    HttpConfig,
    ModelsConfig,
    PlainConfig,
    ServerConfig,
    TelemetryConfig,
)

__all__ = [
    "Config",
    "EngineConfig",
    "Given",
    "Http2Config",
    "HttpConfig",
    "ModelsConfig",
    "PlainConfig",
    "ServerConfig",
    "Settings",
    "TelemetryConfig",
    "debugging",
    "load",
    "parse_address",
    "user_cache_dir",
]
