"""Promises of the live part of a check: a real predictor is run, and what was recorded must come out again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from paramgolf.errors import RunError
from paramgolf.predict.plan import elias_gamma_bits, plan
from paramgolf.predict.protocol import Chunk, TableRows
from paramgolf.predict.score import score
from paramgolf.predict.score_file import save
from paramgolf.predict.score_text import document_hashes, encode_documents, first_documents
from paramgolf.referee.evidence import Evidence, run_evidence
from paramgolf.referee.finding import Finding
from paramgolf.referee.limits import Limits
from paramgolf.referee.live import Subject, judge_live
from paramgolf.referee.rules_score import credited_once
from paramgolf.text.byte_tokenizer import ByteTokenizer
from paramgolf.text.text import HeldOutText, TrainText

TOKENIZER = ByteTokenizer()
V = TOKENIZER.vocab_size
TEXT = HeldOutText("held", [f"document {i} says {'word ' * i}{i * i}".encode() for i in range(1, 30)])


class Counts:
    """Honest order-0 counts, learnt in observe."""

    vocab_size = V

    def __init__(self, weight: float = 1.0) -> None:
        self.counts, self.weight = np.ones(V), weight

    def predict(self, chunk: Chunk) -> TableRows:
        row = np.log(self.counts / self.counts.sum())
        return TableRows(np.broadcast_to(row, (*chunk.tokens.shape, V)).copy(), chunk)

    def observe(self, chunk: Chunk) -> None:
        self.counts += self.weight * np.bincount(chunk.tokens[chunk.real()], minlength=V)


class Peek(Counts):
    """Gives the realised token twice its share, and keeps the row normalised."""

    def predict(self, chunk: Chunk) -> TableRows:
        share = np.tile(self.counts / self.counts.sum(), (*chunk.tokens.shape, 1))
        place = chunk.tokens[:, :, None]
        np.put_along_axis(share, place, 2 * np.take_along_axis(share, place, axis=2), axis=2)
        return TableRows(np.log(share / share.sum(axis=2, keepdims=True)), chunk)


def recorded(folder: Path, text: HeldOutText = TEXT, lanes: int = 1, order: str = "stream") -> Evidence:
    """Evidence of an honest score of `text`."""
    tokens = encode_documents(TOKENIZER, text.documents)
    placed = plan([len(ids) for ids in tokens], lanes=lanes, chunk=64, order=order)
    found = score(Counts(), tokens, placed, TOKENIZER.boundary_id, raw_bytes=text.size(), text_digest=text.digest)
    sizes = np.array([len(document) for document in text.documents])
    hashes = document_hashes(text.documents)
    save(dataclasses.replace(found, document_bytes=sizes, document_hashes=hashes), folder)
    return run_evidence(folder)


def judged(found: Evidence, kind: type[Counts] = Counts, text: HeldOutText = TEXT, **made: float) -> dict[str, Finding]:
    subject = Subject(TOKENIZER, 1, lambda tokens: kind(**made))
    return {finding.rule: finding for finding in judge_live(found, subject, text, seed=5)}


def test_an_honest_predictor_passes_every_probe(tmp_path: Path) -> None:
    """The bits come out again, the denominator is the text's, and all probes pass."""
    found = judged(recorded(tmp_path))
    assert {finding.status for finding in found.values()} == {"PASS"}
    assert {"bytes", "reproducible", "blind-decode", "single-pass", "counterfactual-sum"} <= set(found)
    assert found["reproducible"].numbers["tokens_again"] > 500


def test_bits_that_do_not_come_out_again_fail(tmp_path: Path) -> None:
    """A predictor that learns a little faster than the recorded one is another one."""
    finding = judged(recorded(tmp_path), weight=1.05)["reproducible"]
    assert finding.status == "FAIL"
    assert finding.numbers["max_bits_difference"] > 1e-3


@pytest.mark.parametrize("most", [20_000, 700, 100])
def test_the_longest_are_scored_again_where_they_were_scored_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The sample follows the plan: bits of the documents that came first, or of the beginning of a long one."""
    monkeypatch.setattr("paramgolf.referee.live.SAMPLE_BYTES", most)
    found = recorded(tmp_path, order="longest-first")
    finding = judged(found)["reproducible"]
    assert finding.status == "PASS"
    longest = max(map(len, TEXT.documents))
    told = {20_000: TEXT.size() + len(TEXT.documents), 100: 100}
    assert finding.numbers["tokens_again"] == told.get(most, finding.numbers["tokens_again"]) > min(most, longest) - 1
    assert judged(found, weight=1.05)["reproducible"].status == "FAIL"


def test_a_peeking_predictor_is_caught_live(tmp_path: Path) -> None:
    """A renormalised peek at the target fails the rule of that name, and cannot be decoded."""
    found = judged(recorded(tmp_path), Peek)
    assert found["blind-to-target"].status == "FAIL"
    assert found["blind-decode"].status == "FAIL"
    assert found["sums-to-one"].status == "PASS"


def test_the_given_text_has_the_last_word_on_bytes(tmp_path: Path) -> None:
    """A denominator that the files agree on, but the text does not, fails."""
    found = recorded(tmp_path)
    lying = dataclasses.replace(found, score={**(found.score or {}), "bytes": TEXT.size() + 1})
    assert judged(lying)["bytes"].status == "FAIL"


def test_the_given_text_has_the_last_word_on_separation(tmp_path: Path) -> None:
    """Training on a held-out document shows, whatever hashes the files list for the documents that were scored."""
    found = recorded(tmp_path)
    assert found.arrays is not None
    hidden = dataclasses.replace(found, arrays={**found.arrays, "hashes": np.arange(1, 30, dtype=np.uint64)})
    apart = dataclasses.replace(hidden, train_hashes=document_hashes([b"z" * 99]))
    leaky = dataclasses.replace(hidden, train_hashes=document_hashes([b"z" * 99, TEXT.documents[-1]]))
    assert "data-separation" not in judged(apart)
    assert judged(leaky)["data-separation"].status == "FAIL"


def test_the_first_documents_may_be_scored(tmp_path: Path) -> None:
    """A score of the first documents is checked against the whole text; another text is refused."""
    part = first_documents(TEXT, 400)
    assert 0 < len(part.documents) < len(TEXT.documents)
    assert part.size() <= 400 < part.size() + len(TEXT.documents[len(part.documents)])
    found = recorded(tmp_path, part)
    assert {finding.status for finding in judged(found).values()} == {"PASS"}
    with pytest.raises(RunError, match="the recorded score is of a text"):
        judged(found, text=HeldOutText("other", [b"another text"] * 40))


def test_lanes_are_judged_with_their_side_information(tmp_path: Path) -> None:
    """Three lanes: the claim includes the bits of the lengths, and a claim without them fails."""
    found = recorded(tmp_path, lanes=3)
    finding = credited_once(found, Limits())
    assert finding.status == "PASS"
    assert finding.numbers["side_bits"] == elias_gamma_bits([len(document) + 1 for document in TEXT.documents])
    record = found.score or {}
    cheaper = dataclasses.replace(
        found, score={**record, "bpb": (record["bits"] - record["side_bits"]) / record["bytes"]}
    )
    assert credited_once(cheaper, Limits()).status == "FAIL"
    subject = Subject(TOKENIZER, 3, lambda tokens: Counts())
    probed = judge_live(found, subject, TEXT, seed=5)
    assert {finding.status for finding in probed} == {"PASS"}


def test_hashes_tell_overlaps_and_leave_short_documents_out() -> None:
    """Equal documents have equal hashes; those under 64 bytes are 0, since they coincide by chance."""
    train = TrainText("t", [b"x" * 64, b"y" * 63, b"z" * 200])
    hashes = document_hashes(train.documents)
    assert hashes[1] == 0
    assert hashes[0] != hashes[2]
    assert document_hashes([b"z" * 200])[0] == hashes[2]
