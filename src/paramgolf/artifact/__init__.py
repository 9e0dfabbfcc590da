"""One runnable file: what it holds, how it is written, and how a stranger's is read without running any of it."""
