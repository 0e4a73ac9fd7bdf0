"""``python -m bnref.workers 2 train.py`` and ``... --hosts a:1,b:1 --index 0 train.py``."""

import argparse
import json
import os
import signal
import subprocess
import sys

from bnref.workers import start, task


def main(arguments):
    """Start workers as the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bnref.workers", usage=__doc__)
    parser.add_argument(
        "--hosts",
        help="all workers, host:port,host:port,...; those of one host "
        "with the same port take the ports from there on",
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
    # Ended from outside it lets its workers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if count:
            start(words[0], int(count[0]), *words[1:])
            return 0
        cluster = {"worker": _with_ports_of_their_own(given.hosts.split(","))}
        config = {"cluster": cluster, "task": {"type": "worker", "index": given.index}}
        os.environ["TF_CONFIG"] = json.dumps(config)
        task()  # refuses what is wrong in it
        return _run(words)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bnref.workers: {error}", file=sys.stderr)
        return 1


def _with_ports_of_their_own(addresses):
    """The addresses; of several on one host with the same port the next ones take the next ports.

    Every worker counts alike, so that all come to the same list.
    """
    found = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        while address in found and port.isdecimal():
            port = str(int(port) + 1)
            address = f"{host}:{port}"
        found.append(address)
    return found


def _run(words):
    """Run a script, and return its status; SIGTERM is passed on, and waited for."""
    with subprocess.Popen([sys.executable, *words]) as process:
        try:
            return process.wait()
        except SystemExit:
            process.terminate()
            process.wait()
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
