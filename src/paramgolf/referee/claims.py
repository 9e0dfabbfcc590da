"""val_loss / val_bpb is a constant of the text: whatever a predictor does, it has no part in tokens and bytes.

Of all printed pairs of one scheme (the same words before the numbers), in every log of a record, the quotient must be
the same as far as the printed digits tell (spec pr1185.md 6.1 and 6.4, test R0). The logs of #549 and #1019 agree in
eight digits whatever the seed, those of #1185 have nine values in nine rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paramgolf.referee.finding import Finding, Numbers
from paramgolf.referee.record_log import LN2, LogFacts, Pair
from paramgolf.referee.rules_bytes import CONTEST_BYTES

SLACK = 1e-7  # of the constant, for sums in float32
_SIDE_SLACK = 1e-6  # of all bits


@dataclass(frozen=True)
class Scheme:
    """The pairs that one line prints in all logs, each with its log's name; `final` if some log ends in one of them."""

    label: str
    rows: tuple[tuple[str, Pair], ...]
    final: bool

    @property
    def low(self) -> float:
        """No row allows fewer bytes a token than this."""
        return max(pair.low for _, pair in self.rows)

    @property
    def high(self) -> float:
        return min(pair.high for _, pair in self.rows)

    @property
    def agrees(self) -> bool:
        """Whether one number of bytes a token explains every row."""
        return self.low <= self.high * (1 + SLACK)

    @property
    def constants(self) -> tuple[float, float]:
        """Least and largest val_loss / val_bpb of the rows with the most digits: nats a token for one bit per byte."""
        most = max(pair.digits for _, pair in self.rows)
        values = [pair.loss / pair.bpb for _, pair in self.rows if pair.digits == most]
        return min(values), max(values)


def schemes(logs: Sequence[LogFacts]) -> tuple[Scheme, ...]:
    """The printed pairs by the words before them, in order of first mention.

    The last pair of a log that prints its val_bytes is left out: `side_bits` takes it.
    """
    rows: dict[str, list[tuple[str, Pair]]] = {}
    final = {log.pairs[-1].label for log in logs if log.pairs}
    for log in logs:
        for pair in log.pairs[:-1] if _states_bytes(log) else log.pairs:
            rows.setdefault(pair.label, []).append((log.name, pair))
    return tuple(Scheme(label, tuple(found), label in final) for label, found in rows.items())


def side_bits(log: LogFacts) -> tuple[float, float] | None:
    """Bits that the last pair charges beside its tokens, between these; None unless the log prints tokens and bytes.

    Such a log states its denominator, and what val_bpb has more than val_loss is what the decoder needs besides: one
    number for all seeds of a text, and never below zero.
    """
    if not _states_bytes(log) or log.val_tokens is None or log.val_bytes is None:
        return None
    pair = log.pairs[-1]
    bits = pair.bpb * log.val_bytes - pair.loss * log.val_tokens / LN2
    slack = 0.5 * 10.0**-pair.digits * (log.val_bytes + log.val_tokens / LN2) + _SIDE_SLACK * pair.bpb * log.val_bytes
    return bits - slack, bits + slack


def constancy(logs: Sequence[LogFacts]) -> Finding:
    """Rule `bytes`, across rows and logs: FAIL if the claims contradict each other, UNPROVEN if other rows do.

    Honest causes of the latter exist: the loss of one predictor printed next to the bits of another.
    """
    found = schemes(logs)
    wrong = [scheme for scheme in found if not scheme.agrees]
    numbers = _numbers(logs, found, wrong)
    for scheme in sorted(wrong, key=lambda scheme: not scheme.final):
        low, high = scheme.constants
        says = (
            f"val_loss / val_bpb is one constant of a text, but the rows {scheme.label!r} have {low:.8f} to {high:.8f}"
        )
        says += f"; {numbers['rows_off']} of {numbers['rows']} printed rows are off."
        return Finding("bytes", "FAIL" if scheme.final else "UNPROVEN", says, numbers)
    problem = _side_problem(logs)
    if problem:
        return Finding("bytes", "FAIL", problem, numbers)
    says = (
        f"val_loss / val_bpb is the same in all {numbers['rows']} printed rows of a kind, as far as their digits tell."
    )
    return Finding("bytes", "PASS", says, numbers)


def _states_bytes(log: LogFacts) -> bool:
    return bool(log.pairs and log.val_tokens and log.val_bytes)


def _numbers(logs: Sequence[LogFacts], found: Sequence[Scheme], wrong: Sequence[Scheme]) -> Numbers:
    tokens = {log.name: log.val_tokens for log in logs}
    off = [
        row for scheme in found for row in scheme.rows if scheme in wrong or _not_the_contest(row[1], tokens[row[0]])
    ]
    numbers: Numbers = {"rows": sum(len(scheme.rows) for scheme in found), "rows_off": len(off)}
    for scheme in found:
        if max(pair.digits for _, pair in scheme.rows) >= 6:
            low, high = scheme.constants
            numbers[f"constant {scheme.label}"] = low if low == high else f"{low:.8f} to {high:.8f}"
    return numbers


def _not_the_contest(pair: Pair, tokens: int | None) -> bool:
    low, high = CONTEST_BYTES
    return tokens is not None and (tokens * pair.high < low or tokens * pair.low > high)


def _side_problem(logs: Sequence[LogFacts]) -> str:
    """What is wrong with what logs charge beside their tokens; texts are told apart by their tokens and bytes."""
    texts: dict[tuple[int | None, int | None, str], dict[str, tuple[float, float]]] = {}
    for log in logs:
        bounds = side_bits(log)
        if bounds is not None:
            texts.setdefault((log.val_tokens, log.val_bytes, log.pairs[-1].label), {})[log.name] = bounds
    for found in texts.values():
        name, (_, high) = min(found.items(), key=lambda item: item[1][1])
        if high < 0:
            return f"{name}: val_bpb is {-high:,.0f} bits lower than its val_loss, val_tokens and val_bytes make it."
        if max(low for low, _ in found.values()) > high:
            return (
                f"val_bpb, val_loss, val_tokens and val_bytes differ in what {_names(found)} charge beside the tokens."
            )
    return ""


def _names(found: Mapping[str, object]) -> str:
    return " and ".join(sorted(found)[:2])


def worse(one: Finding, other: Finding) -> Finding:
    """The finding that is worse off, `one` if neither is, with the numbers of both."""
    weight = {"FAIL": 2, "UNPROVEN": 1, "PASS": 0}
    chosen = other if weight[other.status] > weight[one.status] else one
    return Finding(chosen.rule, chosen.status, chosen.says, {**other.numbers, **one.numbers})
