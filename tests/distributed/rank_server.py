"""Forks processes with the environment that torchrun gives to ranks: torch is imported once.

A line of JSON asks for the ranks of one job: {"count", "call": "module:function", "arguments",
"folder"}. The function gets its arguments in each. A line with the exit codes answers it, negative
for signals. What a rank prints is in FOLDER/RANK.txt.
"""

import importlib
import json
import os
import socket
import sys
import traceback

import torch
import torch._dynamo  # what optimizers import, a second in each child otherwise

import fastad.cli  # noqa: F401  the children have it, too


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child(job, rank, port):
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["count"], "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    said = os.open(f"{job['folder']}/{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 0
    try:
        module, _, name = job["call"].partition(":")
        getattr(importlib.import_module(module), name)(*job["arguments"])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job, port, children = json.loads(line), free_port(), []
        for rank in range(job["count"]):
            pid = os.fork()
            if pid == 0:
                child(job, rank, port)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
