"""Every gRPC method that a listener of a dialect answers."""

from dukou.net import services_grpc, services_oip, services_tf
from dukou.net.facts import Facts
from dukou.net.rpc import Methods


def methods(facts: Facts, dialect: str) -> Methods:
    """Inference in each protocol of the dialect; health and reflection, which tell about them."""
    inference = {**services_oip.methods(facts, dialect), **services_tf.methods(facts, dialect)}
    services = {path.split(b"/")[1].decode() for path in inference}
    return {**inference, **services_grpc.methods(facts, services)}
