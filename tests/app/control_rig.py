"""A control plane over a store on disk, with workers that do as they are told."""

from collections.abc import Mapping

from dukou.app.control_plane import ControlPlane
from dukou.control.operations import Cause
from dukou.control.store import Store
from dukou.core.link import Applied, Apply, Assignment, LoadReport
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.seen import Found, Seen
from dukou.core.version import ModelVersion, State
from dukou.lifecycle import verbs
from dukou.lifecycle.reconciler import Reconciler
from dukou.lifecycle.retry import Failures
from dukou.lifecycle.rollout import Status
from dukou.lifecycle.wanted import Declared

NAME = "iris"
OPERATOR = Cause("an operator", "to see")
X, Y = TensorSpec("X", "FP64", (-1, 4)), TensorSpec("Y", "FP64", (-1, 4))
LABEL = TensorSpec("label", "INT64", (-1,))
TAKES_X = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, (X,), (LABEL,))}
TAKES_Y = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, (Y,), (LABEL,))}


class Rig:
    """A control plane whose workers load everything at once; `takes` are the signatures of versions."""

    def __init__(self, store: Store) -> None:
        self.now_s = 0.0
        self.at = 1e9
        self.takes: dict[int, Mapping[str, Signature]] = {}
        self.tables: list[Apply] = []
        self.processes: Mapping[ModelVersion, Assignment] = {}
        reconciler = Reconciler(lambda version: version.version, str, Failures(0, 60.0))
        self.plane = ControlPlane(
            reconciler, store, self.publish, self.run_processes, clock=lambda: self.now_s, wall_clock=lambda: self.at
        )

    def publish(self, table: Apply) -> int:
        self.tables.append(table)
        return len(self.tables)

    def run_processes(self, wanted: Mapping[ModelVersion, Assignment]) -> None:
        self.processes = wanted

    def declare(self, declared: Declared, *versions: int) -> None:
        """These versions are in the repository; go on until nothing changes."""
        seen = Seen({number: Found(f"/models/{number}", "mark") for number in versions})
        self.plane.declare({NAME: declared}, {NAME: seen})
        self.plane.reconcile()
        self.settle()

    def settle(self) -> None:
        """The workers answer every table."""
        answered = 0
        while answered < len(self.tables):
            answered = len(self.tables)
            self.plane.heard(Applied(answered, tuple(map(self.report, self.tables[-1].assignments))))
            self.plane.freed(answered)

    def report(self, one: Assignment) -> LoadReport:
        takes = self.takes.get(one.id.version, TAKES_X) if one.wanted is State.AVAILABLE else {}
        return LoadReport(one.id, one.wanted, one.why, attempt=one.attempt, signatures=takes)

    def deploy(self, version: int, plan: str) -> None:
        case = self.plane.case(NAME)
        self.plane.commit("deploy", NAME, OPERATOR, verbs.deploy(case, version, plan, None, rollout_id=7, now_at=1e9))
        self.settle()

    def weights(self) -> dict[int, float]:
        return {one.version: one.share for one in self.tables[-1].routes[NAME].weights}

    @property
    def status(self) -> Status:
        rollout = self.plane.model(NAME).rollout
        assert rollout is not None
        return rollout.status
