"""``python -m bnref.workers 2 train.py`` and ``... --hosts a:1,b:1 --index 0 train.py``."""

import argparse
import json
import os
import signal
import sys

from bnref.workers import start, task


def main(arguments):
    """Start workers as the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bnref.workers", usage=__doc__)
    parser.add_argument(
        "--hosts",
        help="all workers, host:port,host:port,..., each with an address of its own",
    )
    parser.add_argument("--index", type=int, help="which of the hosts this is, from 0")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="[count] script ...",
        help="how many workers on this machine, without --hosts; the script, and its own arguments",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if (given.hosts is None) != (given.index is None):
        parser.error("--hosts and --index go together")
    count, words = (None, given.words) if given.hosts else (given.words[:1], given.words[1:])
    if not words or (count and not count[0].isdecimal()):
        parser.error(f"give a count and a script, or --hosts, --index and a script: {given.words}")
    try:
        if given.hosts:
            _become_one_of(given.hosts.split(","), given.index, words)
        # Ended from outside it lets its workers end too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        start(words[0], int(count[0]), *words[1:])
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bnref.workers: {error}", file=sys.stderr)
        return 1
    return 0


def _become_one_of(addresses, index, words):
    """Say in ``TF_CONFIG`` who is where, and run the script in this process's place.

    So the script gets the signals that are sent to this process, and its status is this one's.
    """
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(config)
    task()  # refuses what is wrong in it
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
