"""Every gRPC method that a listener of a dialect answers."""

from importlib import import_module

from dukou.net import services_grpc
from dukou.net.facts import Facts
from dukou.net.rpc import Method, Methods

_INFERENCE = ("dukou.net.services_oip", "dukou.net.services_tf")


def methods(facts: Facts, dialect: str) -> Methods:
    """Inference of each protocol, then health and reflection, which tell about them."""
    found: dict[bytes, Method] = {}
    for module in _INFERENCE:
        try:
            found |= import_module(module).methods(facts, dialect)
        except ModuleNotFoundError:
            continue
    services = {path.split(b"/")[1].decode() for path in found}
    return {**found, **services_grpc.methods(facts, services)}
