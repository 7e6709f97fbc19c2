"""The rules between settings."""

from dataclasses import replace
from typing import Any

import pytest

from dukou.config import AdminConfig, Config, ServerConfig, load
from dukou.config.rules import reaches_out, violations
from dukou.core.errors import DukouError


def broken(section: str, **values: Any) -> list[tuple[str, str]]:
    config = Config()
    return list(violations(replace(config, **{section: replace(getattr(config, section), **values)})))


def test_the_defaults_break_no_rule() -> None:
    """What works without flags is allowed."""
    assert list(violations(Config())) == []


@pytest.mark.parametrize(
    ("host", "out"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("10.0.0.1", True),
        ("example.org", True),
    ],
)
def test_only_loopback_stays_on_this_machine(host: str, out: bool) -> None:
    """Anything that is not surely loopback is taken to be reachable."""
    assert reaches_out(host) is out


def test_an_address_others_can_reach_must_be_said_aloud() -> None:
    """The message names the address, the flag and the setting; with insecure it is allowed."""
    ((path, text),) = broken("server", listen=("127.0.0.1:1", "0.0.0.0:1"))

    assert path == "server.listen"
    assert "0.0.0.0:1" in text
    assert "--insecure" in text
    assert "server.insecure = true" in text
    assert broken("server", listen=("0.0.0.0:1",), insecure=True) == []


@pytest.mark.parametrize(
    ("values", "path", "text"),
    [
        ({"listen": ()}, "server.listen", "at least one address"),
        ({"listen": ("127.0.0.1:1", "127.0.0.1:1")}, "server.listen", "there twice"),
        ({"listen": ("nowhere",)}, "server.listen", "'nowhere' is not"),
        ({"listen": ("127.0.0.1:1", "127.0.0.1:1,triton")}, "server.listen", "there twice"),
        ({"listen": ("127.0.0.1:1,tf",)}, "server.listen", "'tf' is not a dialect"),
        ({"listen": ("0.0.0.0:1,triton",)}, "server.listen", "can reach 0.0.0.0:1,"),
        ({"tls_key": "k.pem"}, "server.tls_certificate", "server.tls_key"),
        ({"tls_certificate": "c.pem"}, "server.tls_key", "server.tls_certificate"),
    ],
)
def test_a_broken_rule_names_the_setting_to_change(values: dict[str, Any], path: str, text: str) -> None:
    """Each rule yields one problem."""
    ((found, message),) = broken("server", **values)

    assert found == path
    assert text in message


def test_port_zero_may_be_there_twice() -> None:
    """Each port 0 becomes another port."""
    assert broken("server", listen=("127.0.0.1:0", "127.0.0.1:0")) == []


def test_the_loader_names_who_broke_the_rule() -> None:
    """A broken rule carries the source of the setting it is about."""
    with pytest.raises(DukouError, match=r"server\.listen \(DUKOU_SERVER__LISTEN\): other machines"):
        load(environ={"DUKOU_SERVER__LISTEN": "0.0.0.0:80"})


@pytest.mark.parametrize(
    ("section", "values", "path"),
    [
        ("plain", {"route": "predict"}, "plain.route"),
        ("plain", {"route": "/predict/"}, "plain.route"),
        ("plain", {"route": "/a b"}, "plain.route"),
        ("plain", {"route": "/v2/mine"}, "plain.route"),
        ("plain", {"route": "/metrics"}, "plain.route"),
        ("plain", {"input_key": ""}, "plain.input_key"),
        ("plain", {"output_key": ""}, "plain.output_key"),
        ("telemetry", {"serving_metrics_path": "metrics"}, "telemetry.serving_metrics_path"),
    ],
)
def test_a_path_must_be_one(section: str, values: dict[str, Any], path: str) -> None:
    """One of its own, with names that clients can use."""
    ((found, _),) = broken(section, **values)

    assert found == path


@pytest.mark.parametrize(
    ("section", "values"),
    [("plain", {"route": "/api/score"}), ("plain", {"route": "/v3"}), ("telemetry", {"serving_metrics_path": ""})],
)
def test_other_paths_are_free(section: str, values: dict[str, Any]) -> None:
    """Only what has a meaning already is taken."""
    assert broken(section, **values) == []


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        ("nowhere", "'nowhere' is not"),
        ("unix:/tmp/admin", "'unix:/tmp/admin' is not `host:port`"),
        ("0.0.0.0:8600", "other machines can reach 0.0.0.0:8600, and whoever has the token"),
        ("127.0.0.1:8500", "127.0.0.1:8500 is one of server.listen"),
    ],
)
def test_the_admin_api_has_an_address_of_its_own_on_this_machine(listen: str, text: str) -> None:
    """Wider only where that was said aloud; never that of the data plane."""
    ((path, said),) = broken("admin", listen=listen)

    assert path == "admin.listen"
    assert text in said


def test_the_admin_api_may_be_nowhere_or_on_any_free_port() -> None:
    """Empty, and port 0; and on all addresses where that was said aloud."""
    wide = replace(Config(), server=ServerConfig(insecure=True), admin=AdminConfig(listen="0.0.0.0:8600"))

    assert broken("admin", listen="") == broken("admin", listen="127.0.0.1:0") == list(violations(wide)) == []


def test_an_input_to_be_redacted_has_a_name() -> None:
    """An empty one is a slip."""
    assert broken("capture", redact=("X", "")) == [("capture.redact", "an input's name is empty")]
