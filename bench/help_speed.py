"""Wall seconds of `paramgolf VERB --help` for every verb, beside a bare interpreter: `python bench/help_speed.py`.

Prints the best and the median of five runs each, and the ratio to the interpreter alone. Exit status 1 if a median is
above half a second.
"""

import statistics
import subprocess
import sys
import time

from paramgolf.cli import VERBS

LIMIT = 0.5
RUNS = 5


def wall_seconds(command: list[str]) -> list[float]:
    """Sorted wall seconds of `RUNS` runs, after one that fills the disk cache."""
    found = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begin)
    return sorted(found[1:])


def main() -> int:
    """Measure and print a table."""
    bare = statistics.median(wall_seconds([sys.executable, "-c", "pass"]))
    print(f"{'verb':<14} {'best':>7} {'median':>7} {'times bare python':>18}")
    print(f"{'(bare python)':<14} {'':>7} {bare:>6.3f}s")
    slow = []
    for verb in VERBS:
        found = wall_seconds([sys.executable, "-m", "paramgolf", *verb.split(), "--help"])
        median = statistics.median(found)
        print(f"{verb:<14} {found[0]:>6.3f}s {median:>6.3f}s {median / bare:>17.1f}x")
        slow += [verb] if median > LIMIT else []
    print(f"above {LIMIT} s: {', '.join(slow) or 'none'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
