"""What callers of the inference ports may have the control plane do, where the operator allows it.

Each command is a function from the view and what was asked to an Answer; it waits until the thing is done. Raises
DukouError.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson

from dukou.core.errors import DukouError, Reason
from dukou.core.verb import Load, ReloadFile, Unload, Verb
from dukou.net import pages
from dukou.net.connections import UNIX
from dukou.net.exchange import Answer
from dukou.net.facts import Facts
from dukou.net.routes import Asked, View
from dukou.wire import oip_repository
from dukou.wire.codec import Headers

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")


async def reload_file(view: View, asked: Asked) -> Answer:
    """Read the model config file again; the answer is the status of the model or version, which answers calls then."""
    check_caller(asked.peer, asked.headers, only_local=True)
    await _do(view.facts, ReloadFile(asked.ref.name, asked.ref.version), asked.peer)
    return pages.tf_status(view, asked)


async def load(view: View, asked: Asked) -> Answer:
    """Load a model, as Triton and MLServer answer it."""
    await change(view.facts, _load(asked), asked.peer, asked.headers)
    return Answer(200)


async def unload(view: View, asked: Asked) -> Answer:
    """Unload a model, as Triton and MLServer answer it."""
    await change(view.facts, _unload(asked), asked.peer, asked.headers)
    return Answer(200)


async def kserve_load(view: View, asked: Asked) -> Answer:
    """Load a model, as KServe answers it."""
    await change(view.facts, _load(asked), asked.peer, asked.headers)
    return Answer(200, orjson.dumps({"name": asked.ref.name, "load": True}))


async def kserve_unload(view: View, asked: Asked) -> Answer:
    """Unload a model, as KServe answers it."""
    await change(view.facts, _unload(asked), asked.peer, asked.headers)
    return Answer(200, orjson.dumps({"name": asked.ref.name, "unload": True}))


async def change(facts: Facts, verb: Load | Unload, peer: str, headers: Headers) -> None:
    """Load or unload a model for whoever asks. Raises DukouError, in Triton's words."""
    check_caller(peer, headers)
    try:
        await _do(facts, verb, peer)
    except DukouError as error:
        raise oip_repository.failed(verb, error) from error


def check_caller(peer: str, headers: Headers, *, only_local: bool = False) -> None:
    """That a change may be asked for by `peer`: `only_local` by programs of this machine, and never by a web page of
    elsewhere, which can make its reader's browser post anything to any address. Raises DukouError CALLER_REFUSED."""
    if only_local and (not _is_local(peer) or any(field in headers for field in _FORWARDED)):
        raise DukouError(Reason.CALLER_REFUSED, detail="only callers of the server's own machine may ask for this")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        raise DukouError(Reason.CALLER_REFUSED, detail="a web page of another server may not ask for this")


def _is_local(peer: str) -> bool:
    if peer == UNIX:
        return True
    try:
        address = ip_address(peer.rpartition(":")[0])
    except ValueError:  # the caller has gone
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def _do(facts: Facts, verb: Verb, who: str) -> None:
    assert facts.control is not None, "there is no command without a control plane"
    await facts.control.do(verb, who)


def _load(asked: Asked) -> Load:
    return oip_repository.load(asked.ref.name, oip_repository.parse_parameters(pages.small_body(asked)))


def _unload(asked: Asked) -> Unload:
    return oip_repository.unload(asked.ref.name, oip_repository.parse_parameters(pages.small_body(asked)))
