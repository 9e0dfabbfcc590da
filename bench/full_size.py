"""How long a full-size artifact takes to open cold and to score 10 kB, in a new process.

    python bench/full_size.py RUN/model.pyz TEXT [--bytes 10240] [--adapt none]

TEXT is a plain text or a container (`.jsonl`, `.jsonl.zst`); its first bytes are cut out as one document. The time is
that of the whole command, import of torch and the audit included. Expectation, written before the first run: a frame
of 2,048 tokens costs 2 x 26 M products a token and 11 attentions of 40 ms, 1.2 s at 150 GFLOP/s; 10 kB are about 34
frames, 41 s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paramgolf.text.documents import read_documents


def main() -> None:
    """Cut, score in a new process, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=10_240)
    parser.add_argument("--adapt", default="none")
    options = parser.parse_args()
    data = b"\n".join(read_documents([options.text]))[: options.bytes].decode(errors="ignore").encode()
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch, "text.txt")
        text.write_bytes(data)
        command = [sys.executable, "-m", "paramgolf", "score", str(options.artifact), str(text)]
        begin = time.perf_counter()
        done = subprocess.run([*command, "--adapt", options.adapt, "--json"], stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - begin
    record = json.loads(done.stdout.splitlines()[-1])
    print(f"{options.artifact.stat().st_size:,} bytes opened, {len(data):,} bytes scored in {seconds:.1f} s")
    print(f"{record['tokens']:,} tokens, {record['bpb']:.4f} bits per byte, legal: {record['legal']}")
    print(f"the loop {record['seconds']:.1f} s, of which audits {record['audit_seconds']:.1f} s")
    for entry in record.get("ledger", []):
        print(f"  {entry['name']}: {entry['seconds']:.1f} s")


if __name__ == "__main__":
    main()
