"""All settings: one frozen tree, one loader. Nothing else in dukou has defaults, reads a settings file or touches the
environment.

A part of dukou is given its own section (`EngineConfig`), never the whole tree.
"""

from dukou.config.address import DIALECTS, Listen, parse_address, parse_listen
from dukou.config.load import Given, Settings, debugging, load, token_file, user_cache_dir, user_state_dir
from dukou.config.tree import (
    AdminConfig,
    CaptureConfig,
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
    "DIALECTS",
    "AdminConfig",
    "CaptureConfig",
    "Config",
    "EngineConfig",
    "Given",
    "Http2Config",
    "HttpConfig",
    "Listen",
    "ModelsConfig",
    "PlainConfig",
    "ServerConfig",
    "Settings",
    "TelemetryConfig",
    "debugging",
    "load",
    "parse_address",
    "parse_listen",
    "token_file",
    "user_cache_dir",
    "user_state_dir",
]
