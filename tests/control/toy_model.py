"""A model process whose model is a word, for the tests of what keeps such processes: `toy_model.py LINK_FD ADDRESS`.

The last part of the assignment's folder says how it behaves: `good` and `dies` are AVAILABLE at once (`dies` then ends
by itself), `bad` cannot be loaded, `never` loads for ever, `crashes` dies while it loads, `deaf` answers no ping once
it is AVAILABLE. It tells a comparison of as many rows as its tolerance says.
"""

import os
import signal
import sys
import time
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from dukou.core.comparison import Comparison
from dukou.core.link import (
    Applied,
    Apply,
    CompareBy,
    Compared,
    Decoder,
    Drain,
    LoadReport,
    Message,
    Ping,
    Pong,
    encode,
)
from dukou.core.version import State


class ToyModel:
    """Answers the supervisor."""

    def __init__(self, link: socket) -> None:
        self.link = link
        self.behaviour = ""
        self.rows = 0

    def run(self) -> None:
        decoder = Decoder()
        while data := self.link.recv(65_536):
            for message in decoder.feed(data):
                self.hear(message)

    def hear(self, message: Message) -> None:
        match message:
            case CompareBy():
                self.rows = int(message.tolerance)
            case Apply():
                self.load(message)
            case Ping():
                self.tell(Pong())
            case Drain():
                sys.exit(0)

    def load(self, apply: Apply) -> None:
        (assignment,) = apply.assignments
        behaviour = Path(assignment.folder).name
        if behaviour == "crashes":
            os.kill(os.getpid(), signal.SIGKILL)
        state, error = (State.END, "no such thing") if behaviour == "bad" else (State.AVAILABLE, "")
        if behaviour == "never":
            state = State.LOADING
        report = LoadReport(assignment.id, state, error, warnings=(str(os.getpid()),), attempt=assignment.attempt)
        self.tell(Applied(apply.generation, (report,)))
        if behaviour == "good":
            self.tell(Compared(assignment.id, Comparison(rows=self.rows)))
        if behaviour == "dies":
            sys.exit(3)
        if behaviour == "deaf":
            time.sleep(1000.0)

    def tell(self, message: Message) -> None:
        self.link.sendall(encode(message))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ToyModel(socket(AF_UNIX, SOCK_STREAM, fileno=int(sys.argv[1]))).run()
