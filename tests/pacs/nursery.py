"""Nodes that start in a second: `python -m tests.pacs.nursery MODEL` imports and loads everything once, and forks.

A line of JSON in, `[log, option, ...]`, and out the process id of a `pneumo-hf listen` with these options, which runs
in the log's folder.
"""

import json
import os
import signal
import sys

import torch

import pneumo_hf.pacs.node  # noqa: F401 - imported for the forks
from pneumo_hf.__main__ import main
from pneumo_hf.evaluation import ensembles

torch.set_num_threads(1)  # threads do not survive a fork
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
predictor = ensembles.load_predictor(sys.argv[1:])
ensembles.load_predictor = lambda *_: predictor
for line in sys.stdin:
    log, *options = json.loads(line)
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(written, stream)
        os.chdir(os.path.dirname(log))
        main(["listen", *options])
        sys.stdout.flush()
        os._exit(0)
    print(pid, flush=True)
