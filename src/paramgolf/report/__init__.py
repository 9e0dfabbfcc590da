"""Rivals, plots and the page of a run.

Besides the files that every run has, the page shows these where a run folder holds them:

    peers.json   {"bytes_in": n, "peers": {name: {"bpb", "bytes_coded", "setting", "seconds"}}}   peers.peers_record
    parts.json   {"rows": [{"name", "bpb"}, ...]}      the same artifact and text with one part added at a time
    proof.json   {"bytes_in", "bytes_coded", "identical", "seconds"}
    sizes.json   {"tensors": {name: bytes}}            stored bytes of each squeezed tensor
    sample.txt   text that the model wrote
"""
