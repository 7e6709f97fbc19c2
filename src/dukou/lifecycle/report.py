"""What a rollout has shown, as numbers for machines and as lines for people. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from math import ceil, isinf
from textwrap import wrap
from typing import Any

from dukou.core.buckets import FINE_SECONDS
from dukou.core.comparison import BOUNDS, Agreement, Comparison, Differences, Tally
from dukou.lifecycle import sequential
from dukou.lifecycle.judge import FALSE_PROMOTION, SLICE, Question, Rates, answer, percent, questions, span
from dukou.lifecycle.plan import SHADOW, Step
from dukou.lifecycle.rollout import Rollout, Status, next_step, progress, sample_of
from dukou.lifecycle.sequential import Trials

WIDTH = 100
MOST_PAIRS = 20
MOST_SLICES = 20
QUANTILES = (0.5, 0.9, 0.99)

_ALPHA = FALSE_PROMOTION
_NAME, _SIDE = 24, 28
_MARKS = {"done": "✓", "now": "▶", "ahead": " ", "left": "✗"}


def report(rollout: Rollout) -> Mapping[str, Any]:
    """Everything that is known of a rollout, fit for JSON: its steps, each metric of its step with both versions'
    numbers, what their answers have in common, and what follows (`verdict`, and `reason`, which says what is missing).

    Intervals hold the true value at all looks together with probability `confidence`. Times are seconds, shares 0 to 1;
    what is not known is null.
    """
    decision = next_step(rollout)
    comparison = rollout.measured.comparison
    asked = list(questions(sample_of(rollout)))
    return {
        "id": rollout.id,
        "model": rollout.model,
        "primary": rollout.primary,
        "candidate": rollout.candidate,
        "plan": rollout.plan_text or ",".join(dict.fromkeys(step.kind for step in rollout.plan.steps)),
        "manual": rollout.plan.manual,
        "status": rollout.status.value,
        "verdict": decision.verdict.value if rollout.status.under_way else None,
        "reason": decision.reason if rollout.status is Status.RUNNING else rollout.reason,
        "started_at": rollout.started_at,
        "ended_at": rollout.ended_at or None,
        "steps": [_step(rollout, index, step) for index, step in enumerate(rollout.plan.steps)],
        "confidence": 1 - _ALPHA,
        "metrics": [_metric(question) for question in asked],
        "answers": _answers(comparison) if comparison.rows or comparison.copies else None,
    }


def _step(rollout: Rollout, index: int, step: Step) -> dict[str, Any]:
    state = "done" if index < rollout.step or rollout.status is Status.PROMOTED else "ahead"
    now = index == rollout.step and state != "done"
    if now:
        state = "now" if rollout.status.under_way else "left"
    return {
        "number": index + 1,
        "kind": step.kind,
        "share": step.share,
        "shadow": step.shadow,
        "state": state,
        "least_requests": step.least_requests,
        "least_s": step.least_s,
        "requests": progress(rollout) if now else None,
        "time_s": rollout.step_s if now else None,
    }


def _metric(question: Question) -> dict[str, Any]:
    finding = answer(question)
    rates = isinstance(question, Rates)
    said: dict[str, Any] = {
        "metric": finding.metric,
        "kind": "rate" if rates else "time",
        "outcome": finding.outcome.value,
        "needed": finding.needed,
        "text": finding.text,
        "missing": None if isinf(finding.missing) else ceil(finding.missing),
        "trials": finding.trials,
    }
    if isinstance(question, Rates):
        said["margin"] = question.margin
        said["candidate"] = _rate(question.candidate)
        said["primary"] = None if question.primary is None else _rate(question.primary)
        return said
    said["ratio"] = question.ratio
    for side, counts in (("candidate", question.candidate), ("primary", question.primary)):
        low, high = sequential.quantile(counts, question.share, _ALPHA / 2)
        said[side] = {
            "trials": sum(counts),
            "low_s": FINE_SECONDS[low] if low >= 0 else 0.0,
            "high_s": FINE_SECONDS[high] if high < len(FINE_SECONDS) else None,
            "text": span(low, high),
        }
    return said


def _rate(trials: Trials) -> dict[str, Any]:
    low, high = sequential.interval(trials, _ALPHA)
    return {"events": trials.events, "trials": trials.trials, "rate": trials.rate, "low": low, "high": high}


def _answers(comparison: Comparison) -> dict[str, Any]:
    ranked = sorted(comparison.slices.items(), key=lambda item: -item[1].disagreed)
    return {
        "copies": comparison.copies,
        "dropped": comparison.dropped,
        "failed": comparison.failed,
        **_agreement(Tally(comparison.rows, comparison.disagreed)),
        "labels": {name: _labels(labels) for name, labels in comparison.labels.items()},
        "numbers": {name: _differences(numbers) for name, numbers in comparison.numbers.items()},
        "slices": [{"value": value, **_agreement(tally)} for value, tally in ranked[:MOST_SLICES]],
    }


def _agreement(tally: Tally) -> dict[str, Any]:
    low, high = sequential.interval(Trials(tally.rows - tally.disagreed, tally.rows), _ALPHA)
    agreed = (tally.rows - tally.disagreed) / tally.rows if tally.rows else None
    return {"rows": tally.rows, "agreement": agreed, "low": low, "high": high}


def _labels(labels: Agreement) -> dict[str, Any]:
    pairs = sorted(
        (-rows, primary, candidate)
        for primary, row in labels.confusion.items()
        for candidate, rows in row.items()
        if primary != candidate
    )
    confused = [{"primary": one, "candidate": other, "rows": -rows} for rows, one, other in pairs[:MOST_PAIRS]]
    return {**_agreement(Tally(labels.rows, labels.rows - labels.agreed)), "confused": confused}


def _differences(numbers: Differences) -> dict[str, Any]:
    return {
        "values": numbers.values,
        "absolute": _quantiles(numbers.absolute),
        "relative": _quantiles(numbers.relative),
        "largest": numbers.largest if numbers.largest < float("inf") else None,
    }


def _quantiles(counts: Sequence[int]) -> dict[str, float | None]:
    """By name, an upper bound of each; null where it is beyond all bounds, or nothing was counted."""
    upto = list(accumulate(counts))
    found: dict[str, float | None] = {}
    for quantile in QUANTILES:
        within = [bound for bound, count in zip(BOUNDS, upto, strict=False) if count >= quantile * upto[-1] > 0]
        found[f"p{100 * quantile:g}"] = within[0] if within else None
    return found


def lines(said: Mapping[str, Any]) -> Iterator[str]:
    """A report for people, in lines of at most WIDTH columns."""
    yield f"{said['model']}: version {said['primary']} → {said['candidate']}, rollout {said['id']}: {said['status']}"
    yield f"plan {said['plan']}{', by hand' if said['manual'] else ''}{_when(said)}"
    for step in said["steps"]:
        yield "  " + _step_line(step)
    if said["status"] == Status.HELD.value:
        name = said["model"]
        yield f"for you to decide: `dukou promote {name}` lets it go on, `dukou rollback {name}` ends and bars it"
    yield ""
    yield from evidence(said)


def evidence(said: Mapping[str, Any]) -> Iterator[str]:
    """What a report has found, and by what: its lines without those about the rollout's steps."""
    yield from wrap(said["reason"], WIDTH) if said["reason"] else ()
    if said["metrics"]:
        yield ""
        yield from _metric_lines(said["metrics"])
    if said["answers"] is not None:
        yield ""
        yield from _answer_lines(said["answers"])
    if said["metrics"] or said["answers"] is not None:
        yield ""
        yield f"[low-high] holds the true value with {percent(said['confidence'])}, however often one looks."
        if any(_outcome(metric).startswith("+") for metric in said["metrics"]):
            yield "+N: not certain; about so many more calls or rows would do."


def _when(said: Mapping[str, Any]) -> str:
    if not said["started_at"]:
        return ""
    times = [f", since {_time(said['started_at'])}", f" until {_time(said['ended_at'])}" if said["ended_at"] else ""]
    return "".join(times)


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _step_line(step: Mapping[str, Any]) -> str:
    shadow = step["kind"] == SHADOW
    share = f"{percent(step['shadow' if shadow else 'share'])} {'copied' if shadow else 'answered'}"
    text = f"{_MARKS[step['state']]} {step['number']}  {step['kind']:<11}  {share:<16}"
    if step["requests"] is None:
        return text.rstrip()
    words = "rows" if shadow else "requests"
    had = f"{step['requests']:,} of at least {step['least_requests']:,} {words}"
    return f"{text}  {had}, {step['time_s']:.0f} of at least {step['least_s']:g} s"


def _metric_lines(metrics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [each for each in metrics if not each["metric"].startswith(SLICE) or each["outcome"] in ("WORSE", "UNLIKE")]
    name = min(_NAME, max(len(metric["metric"]) for metric in shown))
    yield f"{'':<{name}}  {'candidate':<{_SIDE}}  {'primary':<{_SIDE}}  found"
    for metric in shown:
        candidate = _side(metric["candidate"])
        primary = _side(metric["primary"]) if metric["primary"] else f"at most {percent(metric['margin'])}"
        text = _shorten(metric["metric"], name)
        yield f"{text:<{name}}  {candidate:<{_SIDE}}  {primary:<{_SIDE}}  {_outcome(metric)}"


def _side(side: Mapping[str, Any]) -> str:
    if "text" in side:
        return str(side["text"])
    if not side["trials"]:
        return "nothing yet"
    return f"{percent(side['rate'])} [{100 * side['low']:.2g}-{100 * side['high']:.2g}] of {_short(side['trials'])}"


def _outcome(metric: Mapping[str, Any]) -> str:
    outcome = str(metric["outcome"])
    if outcome != "UNSURE":
        return {"FINE": "fine", "WORSE": "WORSE", "UNLIKE": "UNLIKE", "NOTED": "noted"}[outcome]
    return "not known" if metric["missing"] is None else f"+{_short(metric['missing'])}"


def _shorten(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _short(count: int) -> str:
    for scale, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= scale:
            return f"{count / (1000 if unit == 'k' else scale):.3g}{unit}"
    return f"{count:,}"


def _answer_lines(answers: Mapping[str, Any]) -> Iterator[str]:
    dropped = f", {answers['dropped']:,} dropped" if answers["dropped"] else ""
    yield f"{answers['rows']:,} rows compared ({answers['copies']:,} copies{dropped}): {_agreed(answers)} agree"
    for name, labels in answers["labels"].items():
        yield f"  {_shorten(name, 30)}: the same label in {_agreed(labels)} of {labels['rows']:,} rows"
        for pair in labels["confused"][:5]:
            yield f"    {_shorten(pair['primary'], 30)} → {_shorten(pair['candidate'], 30)}: {pair['rows']:,}"
    for name, numbers in answers["numbers"].items():
        yield f"  {_shorten(name, 30)}: {numbers['values']:,} numbers"
        for kind in ("absolute", "relative"):
            found = ", ".join(f"{quantile} {_upto(value)}" for quantile, value in numbers[kind].items())
            yield f"    {kind} difference: {found}"
    for tally in answers["slices"]:
        yield f"  {_shorten(tally['value'], 40)}: {_agreed(tally)} of {tally['rows']:,} rows agree"


def _agreed(tally: Mapping[str, Any]) -> str:
    if tally["agreement"] is None:
        return "none"
    return f"{_exactly(tally['agreement'])} % [{_exactly(tally['low'])}-{_exactly(tally['high'])}]"


def _exactly(share: float) -> str:
    """A share near 1: with digits enough to tell it from 1."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".")


def _upto(value: float | None) -> str:
    return "unbounded" if value is None else f"≤ {value:.2g}"
