"""From what should be to the next table. No I/O here: whoever owns a Reconciler tells it what is observed, publishes
what it decides and says so.

    observe: declare, override, see, heard, freed, shadow_heard      decide: the next table      act: sent
"""

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from dukou.core.link import Applied, Apply, Assignment, LoadReport
from dukou.core.model import Signature
from dukou.core.route import Route, Shadow
from dukou.core.seen import Found, Seen
from dukou.core.version import ModelVersion, State
from dukou.lifecycle.desired import as_loaded, desired, servable
from dukou.lifecycle.retry import Failures
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.strategy import next_action, resuming
from dukou.lifecycle.wanted import Declared, Next, Now, Overrides, Strategy, Trial, Wanted

_ON_TRIAL = "it is a shadow, which gets copies and answers nobody"


class Model(msgspec.Struct):
    """What is known of one model. `declared` is None once it is declared no more; it is forgotten when nothing of it is
    loaded. `problem` says why its repository cannot be read; `seen` is then what was there before."""

    declared: Declared | None = None
    overrides: Overrides = Overrides()
    rollout: Rollout | None = None
    seen: Seen = Seen()
    problem: str = ""


class Decided(msgspec.Struct, frozen=True):
    """The next table (its generation is the publisher's), None while the one in force is right; and what should be in
    model processes."""

    apply: Apply | None
    processes: Mapping[ModelVersion, Assignment]


class Reconciler:
    """Holds what is known of every model and what was published last.

    `block_of` gives a version's block of counters, `address_of` the Unix socket of its model process. `failures` says
    when a version that failed to load is tried again.
    """

    def __init__(
        self,
        block_of: Callable[[ModelVersion], int],
        address_of: Callable[[ModelVersion], str],
        failures: Failures,
    ) -> None:
        self.models: dict[str, Model] = {}
        self._block_of = block_of
        self._address_of = address_of
        self._failures = failures
        self._table = Apply(0, ())
        self._resumed: Apply | None = None
        self._assigned: dict[ModelVersion, Assignment] = {}
        self._since: dict[ModelVersion, int] = {}  # the generation that brought each version, or dropped it
        self._dropped: dict[ModelVersion, int] = {}
        self._attempts: dict[ModelVersion, int] = {}
        self._marks: dict[ModelVersion, str] = {}  # of the files that were told to be loaded
        self._applied = Applied(0, ())
        self._reports: dict[ModelVersion, LoadReport] = {}
        self._shadow_reports: dict[ModelVersion, LoadReport] = {}
        self._freed = 0

    # What is observed.

    def resume(self, published: Apply | None) -> None:
        """Begin with the table that was published before a restart, as far as its versions are still there."""
        self._resumed = published

    def declare(self, declared: Mapping[str, Declared]) -> None:
        """These models and no others are declared now."""
        for name, model in self.models.items():
            model.declared = declared.get(name)
        for name, one in declared.items():
            self.models.setdefault(name, Model()).declared = one

    def see(self, name: str, seen: Seen) -> None:
        """The repository holds this of a model now. A repository that cannot be read changes nothing."""
        model = self.models[name]
        model.problem = seen.problem
        if not seen.problem:
            model.seen = seen

    def heard(self, applied: Applied, now_s: float) -> None:
        """The workers' merged answer to a table."""
        self._applied = applied
        self._resumed = None
        for report in applied.reports:
            if applied.generation >= self._since.get(report.id, 0):  # else it tells of a try before the last
                self._note(report, now_s)
        self._reports = {report.id: report for report in applied.reports}

    def freed(self, generation: int) -> None:
        """Every worker has given back what tables before this one had."""
        self._freed = max(self._freed, generation)
        self._dropped = {version: at for version, at in self._dropped.items() if at > self._freed}

    def shadow_heard(self, report: LoadReport) -> None:
        """A model process tells how it is."""
        self._shadow_reports[report.id] = report

    def retry(self, name: str, version: int | None) -> None:
        """Try a version, or all of a model, again at once, though it has failed before."""
        for number in self.models[name].seen.versions if version is None else (version,):
            self._failures.succeeded(ModelVersion(name, number))

    # What is known.

    @property
    def table(self) -> Apply:
        """The table published last."""
        return self._table

    @property
    def settled(self) -> bool:
        """Whether every worker has the table published last in force."""
        return self._applied.generation >= self._table.generation

    def is_wanted(self, version: ModelVersion) -> bool:
        """Whether the table published last wants a version loaded."""
        assigned = self._assigned.get(version)
        return assigned is not None and assigned.wanted is State.AVAILABLE

    def shadow_report(self, version: ModelVersion) -> LoadReport | None:
        """What its model process tells of a version."""
        return self._shadow_reports.get(version)

    def signatures(self, version: ModelVersion) -> Mapping[str, Signature]:
        """Those of a loaded version; none where it is not loaded."""
        for report in (self._reports.get(version), self._shadow_reports.get(version)):
            if report is not None and report.signatures:
                return report.signatures
        return {}

    def available(self, name: str) -> tuple[int, ...]:
        """The versions of a model that every worker has, highest first."""
        states = self.now(name).states
        return tuple(sorted((number for number, state in states.items() if state is State.AVAILABLE), reverse=True))

    def changed(self, version: ModelVersion) -> bool:
        """Whether the files of an AVAILABLE version are not those that were loaded; a failed one is tried again."""
        found = self.models[version.name].seen.versions.get(version.version)
        if found is None or version.version not in self.available(version.name):
            return False
        return self._marks.get(version, found.mark) != found.mark

    def in_force(self, name: str, now_s: float) -> bool:
        """Whether every worker serves a model as it should be, as far as that can be now."""
        if name not in self.models:
            return True
        now = self.now(name)
        coming = next_action(now, self.wanted(name, now_s))
        held = {version.version for version in self._assigned if version.name == name and self.is_wanted(version)}
        same = set(coming.load) == held and coming.weights == now.weights and dict(coming.labels) == dict(now.labels)
        return self.settled and same

    def arrived(self, name: str, now_s: float) -> bool:
        """Whether a model's calls go where they should in the end; what has to be loaded first is waited for, what
        cannot be loaded is not."""
        if name not in self.models:
            return True
        wanted = self.wanted(name, now_s)
        return wanted.hold or self.now(name).weights == wanted.weights

    def failed(self, name: str) -> Mapping[int, str]:
        """The versions whose files, as they are, have failed to load, each with the error."""
        return self._failures.errors(name, self.models[name].seen, math.inf, again=False)

    def last_errors(self, name: str) -> Mapping[int, str]:
        """The versions whose files, as they are, have failed to load so far, those that are tried again included."""
        return self._failures.last(name, self.models[name].seen)

    def aspired(self, name: str) -> tuple[int, ...]:
        """What would be served if everything could be loaded, highest first."""
        model = self.models[name]
        if model.declared is None:
            return ()
        seen = as_loaded(model.seen, self.available(name), {})
        return desired(model.declared, model.overrides, trial_of(model.rollout), seen).versions

    def whys(self, name: str, now_s: float) -> Mapping[int, str]:
        """Why versions are not AVAILABLE, as far as there is something to say."""
        reported = {
            version.version: report.error
            for version, report in (*self._reports.items(), *self._shadow_reports.items())
            if version.name == name and report.error
        }
        return {**self.wanted(name, now_s).absent, **reported, **self.failed(name)}

    def given_up(self, version: ModelVersion) -> str:
        """The error of a version that has failed to load so often that it is not tried again until its files change;
        empty for others."""
        if not self._failures.exhausted(version, self._marks.get(version, "")):
            return ""
        seen = self.models[version.name].seen
        return self._failures.errors(version.name, seen, math.inf).get(version.version, "")

    def now(self, name: str) -> Now:
        """What is, for one model."""
        states: dict[int, State] = {
            version.version: State.UNLOADING for version in self._dropped if version.name == name
        }
        for version, assignment in self._assigned.items():
            if version.name == name:
                states[version.version] = self._state(assignment)
        route = self._table.routes.get(name, Route())
        return Now(states, route.weights, self._table.labels.get(name, {}))

    def wanted(self, name: str, now_s: float) -> Wanted:
        """What should be, for one model."""
        model = self.models[name]
        if model.declared is None:
            return Wanted()
        preserving = (model.overrides.strategy or model.declared.strategy) is Strategy.AVAILABILITY_PRESERVING
        barred = model.overrides.barred
        failed = self._failures.errors(name, model.seen, now_s, again=preserving, barred=barred)
        seen = msgspec.structs.replace(model.seen, problem=model.problem)
        seen = as_loaded(seen, self.available(name), failed)
        return desired(model.declared, model.overrides, trial_of(model.rollout), seen)

    # What is decided.

    def decide(self, now_s: float) -> Decided:
        """The next table and the model processes wanted; to be called whenever something was observed."""
        assignments: list[Assignment] = []
        routes: dict[str, Route] = {}
        labels: dict[str, Mapping[str, int]] = {}
        processes: dict[ModelVersion, Assignment] = {}
        for name in sorted(self.models):
            self._reload_accepted(name)
            wanted = self.wanted(name, now_s)
            self._try_again(name, wanted)
            coming = self._coming(name, wanted)
            assignments += self._assignments(name, wanted, coming)
            shadows: tuple[Shadow, ...] = ()
            if wanted.shadow is not None:
                version = ModelVersion(name, wanted.shadow.version)
                if version.version not in {*coming.load, *coming.announce}:  # whoever sends copies counts them
                    assignments.append(self._assign(version, State.START, why=_ON_TRIAL))
                processes[version] = self._assign(version, State.AVAILABLE, process=self._address_of(version))
                report = self._shadow_reports.get(version)
                if report is not None and report.state is State.AVAILABLE:
                    shadows = (Shadow(version.version, processes[version].process, wanted.shadow.share),)
            if coming.weights or shadows:
                routes[name] = Route(coming.weights, wanted.sticky, shadows)
            named = dict(coming.labels)
            if not self._applied.generation:  # no worker answers before it has loaded: whoever calls then finds them
                named = {label: number for label, number in wanted.labels.items() if number in coming.load} | named
            if named:
                labels[name] = named
        self._forget()
        for version in list(self._shadow_reports):
            if version not in processes:
                del self._shadow_reports[version]
        table = Apply(0, tuple(assignments), routes, labels)
        same = msgspec.structs.replace(self._table, generation=0) == table
        return Decided(None if same and self._table.generation else table, processes)

    def sent(self, apply: Apply) -> None:
        """This table was published."""
        assigned = {one.id: one for one in apply.assignments}
        held = {one.id for one in self._assigned.values() if one.wanted is State.AVAILABLE}
        holds = {one.id for one in assigned.values() if one.wanted is State.AVAILABLE}
        for version in held - holds:
            self._dropped[version] = apply.generation
        for version in holds - held:
            self._since[version] = apply.generation
            self._reports.pop(version, None)
        for version in holds:
            self._dropped.pop(version, None)
        self._table = apply
        self._assigned = assigned

    def _coming(self, name: str, wanted: Wanted) -> Next:
        """A model's part of the next table; until the workers have one, that is the one before a restart."""
        if self._resumed is not None:
            model = self.models[name]
            resumed = resuming(self._resumed, name, wanted, servable(model.overrides, model.seen))
            if resumed is not None:
                return resumed
        return next_action(self.now(name), wanted)

    def _assignments(self, name: str, wanted: Wanted, coming: Next) -> Iterable[Assignment]:
        for number in coming.load:
            yield self._assign(ModelVersion(name, number), State.AVAILABLE)
        for number in coming.announce:
            if number not in coming.load:
                yield self._assign(ModelVersion(name, number), State.START)
        for number, why in sorted(wanted.absent.items(), reverse=True):
            if number not in coming.load and number not in coming.announce:
                yield self._assign(ModelVersion(name, number), State.END, why=why)

    def _assign(self, version: ModelVersion, state: State, *, why: str = "", process: str = "") -> Assignment:
        before = self._assigned.get(version)
        model = self.models[version.name]
        found = model.seen.versions.get(version.version)
        if found is None:  # its folder has gone while it is served
            found = Found(before.folder if before is not None else "", self._marks.get(version, ""))
        attempt = self._attempts.get(version, 0)
        loaded = state is State.AVAILABLE
        if loaded and (before is None or before.wanted is not state or before.attempt != attempt):
            self._marks[version] = found.mark
        options = model.declared.options if model.declared is not None else before.options if before else {}
        return Assignment(
            version,
            found.folder,
            self._block_of(version) if state is not State.END else 0,
            dict(options) if loaded else {},
            state,
            why,
            attempt if loaded else 0,
            process,
        )

    def _reload_accepted(self, name: str) -> None:
        """Load anew what an operator has accepted after its files had changed."""
        model = self.models[name]
        for number, mark in model.overrides.accepted.items():
            version, found = ModelVersion(name, number), model.seen.versions.get(number)
            if self.is_wanted(version) and found is not None and found.mark == mark != self._marks.get(version):
                self._attempts[version] = self._attempts.get(version, 0) + 1

    def _try_again(self, name: str, wanted: Wanted) -> None:
        """Load anew what has failed, is wanted again by now, and has not left the table meanwhile: nothing else
        answers in its place."""
        for number in wanted.versions:
            version = ModelVersion(name, number)
            if self.is_wanted(version) and self._state(self._assigned[version]) is State.END:
                self._attempts[version] = self._attempts.get(version, 0) + 1

    def _state(self, assignment: Assignment) -> State:
        if assignment.wanted is not State.AVAILABLE:
            return assignment.wanted
        report = self._reports.get(assignment.id)
        if report is None or self._applied.generation < self._since.get(assignment.id, 0):
            return State.LOADING
        if report.state is State.END and report.attempt < assignment.attempt:
            return State.LOADING
        return report.state

    def _note(self, report: LoadReport, now_s: float) -> None:
        """Remember a version that has just failed to load, or has just succeeded."""
        before, assignment = self._reports.get(report.id), self._assigned.get(report.id)
        if before == report or assignment is None or assignment.wanted is not State.AVAILABLE:
            return
        if report.error:
            if before is None or not before.error or before.attempt < report.attempt:
                self._failures.failed(report.id, self._marks.get(report.id, ""), now_s, report.error)
        elif report.state is State.AVAILABLE:
            self._failures.succeeded(report.id)

    def _forget(self) -> None:
        """Let go of models that are declared no more and of which nothing is left, and of versions that have gone."""
        for name, model in list(self.models.items()):
            if model.declared is None and not self.now(name).states:
                del self.models[name]
        there = {ModelVersion(name, number) for name, model in self.models.items() for number in model.seen.versions}
        there |= {*self._assigned, *self._dropped}
        self._failures.forget(there.__contains__)
        for known in (self._since, self._attempts, self._marks):
            for version in known.keys() - there:
                del known[version]


def trial_of(rollout: Rollout | None) -> Trial | None:
    """What a rollout under way wants."""
    if rollout is None or not rollout.status.under_way:
        return None
    step = rollout.plan.steps[rollout.step]
    return Trial(rollout.primary, rollout.candidate, step.share, step.shadow)
