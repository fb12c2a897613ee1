"""Speaks, or breaks, the protocol of bench/peers/scripts/serve.py, as its argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

behaviour = sys.argv[1]
os.setpgrp()


def count(file: Path) -> None:
    while True:
        with file.open("a") as counter:
            counter.write(".")
        time.sleep(0.005)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


blocks = 0
for line in sys.stdin:
    request = json.loads(line)
    opens = request["do"] == "open"
    if behaviour == "refuses" and opens:
        answer: object = {"error": "ModuleNotFoundError: No module named 'warp_drive'"}
    elif behaviour == "hangs" and not opens:
        time.sleep(60)
    elif behaviour == "babbles" and not opens:
        say("Epoch 1: 100%")
        continue
    elif behaviour == "counts wrong" and not opens:
        answer = {"images": 3, "seconds": 0}
    elif behaviour == "crashes later" and not opens and (blocks := blocks + 1) == 3:
        sys.stderr.write("fatal: the decoder fell over\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    elif behaviour == "leaves" and opens:
        sys.exit("no photographs for me")
    elif opens:
        if behaviour == "runs on":
            file = Path(request["settings"]["work"])
            threading.Thread(target=count, args=(file,), daemon=True).start()
        answer = {"versions": {"fake": "1.0", "workers": str(request["settings"].get("workers"))}}
    else:
        time.sleep(0.05)
        answer = {"images": 100, "seconds": 0.5}
    say(json.dumps(answer))
