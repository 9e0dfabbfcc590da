"""The rivals are measured on exactly the bytes that were scored."""

import lzma
import random

from paramgolf.report.peers import measure_peers, ppmd_primed

WORDS = ["the ", "model ", "reads ", "one ", "token ", "and ", "pays ", "for ", "it ", "before "]


def _text(seed: int, words: int) -> bytes:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(words)).encode()


def test_every_peer_reports_bits_of_the_same_bytes() -> None:
    """All five peers are measured in their own process, and xz agrees with the library called directly."""
    documents = [_text(1, 2000), _text(2, 2000)]
    peers = measure_peers(documents, [_text(3, 2000)])
    assert list(peers) == ["xz", "brotli", "zstd", "ppmd", "ppmd_primed"]
    joined = b"".join(documents)
    assert peers["xz"].bytes_coded == len(lzma.compress(joined, preset=9 | lzma.PRESET_EXTREME))
    for peer in peers.values():
        assert peer.bytes_coded is not None and peer.bpb == 8 * peer.bytes_coded / len(joined)
        # Words drawn evenly from ten cost log2(10) = 3.3 bits, 4.9 bytes each: 0.67 bits per byte is the floor.
        assert 0.67 < peer.bpb < 2.0


def test_priming_pays_only_for_what_is_new() -> None:
    """Text that PPMd has just read costs almost nothing; text it has not read costs what it costs alone."""
    first, other = random.Random(4).randbytes(5000), random.Random(5).randbytes(5000)
    assert ppmd_primed(first, first) < 500
    assert ppmd_primed(first, other) > 4900


def test_a_peer_that_does_not_end_in_time_has_no_number() -> None:
    """A time limit leaves `bpb` empty instead of failing or inventing a number."""
    peers = measure_peers([_text(1, 100)], timeout=0.001)
    assert "ppmd_primed" not in peers
    assert all(peer.bpb is None and peer.bytes_coded is None for peer in peers.values())
