"""Hints of a word's first token from the words before it (#2140, spec section 6.3), in plain Python.

A word is the text of its tokens, trimmed, without punctuation at its edges, in lower case. Words are remembered over
documents, the words before a place are not carried over the start of a lane's text.

Legend: T positions of a lane of a chunk, V vocabulary.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from paramgolf.errors import TokenizerError
from paramgolf.predict.protocol import Chunk
from paramgolf.predict.tilt_hints import Hints, lane_tokens, no_hints
from paramgolf.predict.tilt_table import BEGINS, ENDS, Int8

EDGES = ".,:;!?()[]{}<>\"'`"
LONGEST = 256  # characters, about, that a word is told apart by

Words = tuple[str, ...]


@dataclass
class Followers:
    """What followed some words: how often each token, how often any, and the leader (among equals the older)."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    top: int = -1

    def learn(self, token: int) -> None:
        """One more."""
        self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1
        if self.counts[token] > self.counts.get(self.top, 0):
            self.top = token


@dataclass
class _Lane:
    """The last words of a text, and the beginning of the one that is open (None: no word is)."""

    last: Words = ()
    open: str | None = None

    def closed(self, words: int) -> Words:
        """The last words, the open one among them, if it has any text."""
        word = (self.open or "").strip().strip(EDGES).lower()
        return (*self.last, word)[-words:] if word else self.last


class WordStartHints:
    """Before each position: the token that most often began a word after the last `words` words, the open one closed.

    Learns at each beginning of a word: a piece that begins one, or any piece where none is open. `text` [V] is what
    each token stands for, `kind_V` int8 [V] what it does to a word (`tilt_table`). Raises `TokenizerError` for ids
    outside 0..V - 1.
    """

    def __init__(self, text: Sequence[str], kind_V: Int8, lanes: int = 1, *, words: int) -> None:
        if len(text) != len(kind_V):
            raise ValueError(f"{len(text)} pieces of text and {len(kind_V)} kinds of tokens")
        self.vocab_size = len(text)
        self._text, self._kinds, self._words = tuple(text), kind_V.tolist(), words
        self._known: dict[Words, Followers] = {}
        self._lanes = [_Lane() for _ in range(lanes)]

    def hints(self, chunk: Chunk, lane: int) -> Hints:
        """The hint before each real position of a lane; changes nothing."""
        found = no_hints(int(chunk.lengths[lane]))
        self._walk(chunk, lane, ChainMap({}, self._known), found)
        return found

    def observe(self, chunk: Chunk) -> None:
        """Learn from the chunk's tokens, lane after lane."""
        for lane in range(len(chunk.tokens)):
            self._lanes[lane] = self._walk(chunk, lane, self._known, None)

    def _walk(self, chunk: Chunk, lane: int, known: MutableMapping[Words, Followers], found: Hints | None) -> _Lane:
        at = _Lane() if chunk.starts[lane] else copy.copy(self._lanes[lane])
        tokens = lane_tokens(chunk, lane).tolist()
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            raise TokenizerError(f"token ids {min(tokens)}..{max(tokens)} are not in 0..{self.vocab_size - 1}")
        for t, token in enumerate(tokens):
            kind = self._kinds[token]
            begins = kind == BEGINS or (kind != ENDS and at.open is None)
            if found is not None or begins or kind == ENDS:
                before = at.closed(self._words)
                if found is not None:
                    _write(found, t, known.get(before) if len(before) == self._words else None)
            if begins:
                if len(before) == self._words:
                    _own(known, before).learn(token)
                at = _Lane(before, self._text[token][:LONGEST])
            elif kind == ENDS:
                at = _Lane(before)
            elif at.open is not None and len(at.open) < LONGEST:
                at.open += self._text[token]
        return at


def _write(found: Hints, t: int, followers: Followers | None) -> None:
    if followers is not None:
        found.token_T[t], found.total_T[t] = followers.top, followers.total
        found.top_T[t] = followers.counts[followers.top]


def _own(known: MutableMapping[Words, Followers], words: Words) -> Followers:
    """The followers of `words`, which may be changed: copied first if they are another map's."""
    mine = known.maps[0] if isinstance(known, ChainMap) else known
    if words not in mine:
        mine[words] = copy.deepcopy(known[words]) if words in known else Followers()
    return mine[words]
