"""Judges what the clients went through: nothing missing or repeated, only closes that a client returns from, short absences."""

from __future__ import annotations

import math
from collections import Counter

from checks import Failed
from crowd import Absence, Client, Crowd

# The one close code of a planned operation.
RESTARTING = 1012
ABSENCE_SECONDS_P99_MAX = 2.0
BARS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, math.inf)


def judge_messages(crowd: Crowd) -> str:
    """Every client has every publication from its baseline on, once and in order, and was told of no gap and no error."""
    for client in crowd.clients:
        if client.complaints:
            raise Failed(f"{client.name} received {client.complaints[0]} ({len(client.complaints)} such messages)")
        _judge_numbers(client, crowd.published(client))
    received = sum(len(client.numbers) for client in crowd.clients)
    published = sum(crowd.market.counts.values()) + sum(crowd.orders.counts.values())
    repeats = dict(crowd.market.repeats + crowd.orders.repeats)
    return f"{len(crowd.clients)} clients, {published} published, {received} received, none missing, none repeated; requests repeated: {repeats}"


def _judge_numbers(client: Client, published: int) -> None:
    numbers = client.numbers
    if len(numbers) != len(set(numbers)):
        repeated = [number for number, count in Counter(numbers).items() if count > 1]
        raise Failed(f"{client.name} received {len(repeated)} messages twice: {repeated[:10]}")
    first = numbers[0] if numbers else published + 1
    if first > client.baseline + 1:
        raise Failed(f"{client.name} was subscribed at {client.baseline}, but received nothing before {first}")
    expected = list(range(first, published + 1))
    if numbers != expected:
        missing = sorted(set(expected) - set(numbers))
        raise Failed(f"{client.name} lacks {len(missing)} of {len(expected)} messages: {missing[:10]}" if missing else f"{client.name} received messages out of order")


def judge_absences(absences: list[Absence]) -> str:
    """Codes and times. Prints nothing; returns the distribution."""
    strange = Counter(absence.code for absence in absences if absence.code != RESTARTING)
    if strange:
        raise Failed(f"{sum(strange.values())} of {len(absences)} closes are not {RESTARTING}: {dict(strange)}")
    if unfinished := [absence.client for absence in absences if absence.seconds is None]:
        raise Failed(f"{len(unfinished)} clients are not back: {unfinished[:5]}")
    p99 = percentile(absences, 0.99)
    if p99 > ABSENCE_SECONDS_P99_MAX:
        raise Failed(f"clients were disconnected for {p99:.2f} s at p99, more than {ABSENCE_SECONDS_P99_MAX:g} s: {describe(absences)}\n{histogram(absences)}")
    return describe(absences)


def describe(absences: list[Absence]) -> str:
    """One line: how many closes, and for how long."""
    if not absences:
        return "no close"
    codes = dict(Counter(absence.code for absence in absences))
    refusals = Counter(refusal for absence in absences for refusal in absence.refusals)
    points = ", ".join(f"{name} {percentile(absences, share):.2f}" for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)))
    return f"{len(absences)} closes {codes}, disconnected for {points} s" + (f", refused meanwhile: {dict(refusals)}" if refusals else "")


def percentile(absences: list[Absence], share: float) -> float:
    """The smallest time that this share of the absences did not exceed; 0 without any."""
    times = sorted(absence.seconds for absence in absences if absence.seconds is not None)
    return times[max(0, math.ceil(share * len(times)) - 1)] if times else 0.0


def histogram(absences: list[Absence]) -> str:
    """Absences by time, a line each."""
    times = [absence.seconds for absence in absences if absence.seconds is not None]
    lines, below = [], 0.0
    for bar in BARS:
        count = sum(below < time <= bar for time in times)
        label = f"over {below:g} s" if bar == math.inf else f"up to {bar:g} s"
        if count:
            lines.append(f"    {label:>12}  {count:6d}  {'#' * max(1, round(50 * count / len(times)))}")
        below = bar
    return "\n".join(lines)
