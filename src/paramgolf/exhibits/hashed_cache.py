"""The hashed n-gram cache: a ratio of two hashed buckets, looked up for the true token alone.

Per order two tables of counters, one hashed by the context and one by context and token; at the target p = min(pair,
context) / context if the context was seen twice, highest order first, blended with the model by its entropy (0.05 +
0.55 sigmoid(2 (H - 4))). Where different pairs share a bucket, every token can look probable: the "distribution" sums
to hundreds (277 to 410 in #886; above 1,000 in #1147). Claimed: #659 1.0920, #727 0.9674, #779 0.6683, #809 0.2952,
#913 0.0887, #944 0.0165; #972 fell from 0.3922 to 1.5134 once normalised (#978). #1185 (0.9641) blended exact counts
at the target only.

Here in its plainest form, orders 2 to 5; `hashed_ngram.py` has the published relatives one by one. Caught by
`sums-to-one`.
"""

from __future__ import annotations

from paramgolf.exhibits.hashed_ngram import HashedNgram
from paramgolf.exhibits.hashed_tables import FIVE, HashedFamily
from paramgolf.predict.protocol import Predictor


class HashedCache(HashedNgram):
    """The base blended with the bucket ratio; its row is what the scorer would credit for each token."""

    def __init__(self, base: Predictor, orders: tuple[int, ...] = (5, 4, 3, 2), buckets: int = 256) -> None:
        super().__init__(base, HashedFamily(orders, FIVE, buckets))
