"""An end that is asked for from outside: SIGTERM, by which schedulers announce preemption."""

import signal
import sys
import threading

import tensorflow as tf

from bnref import workers
from bnref.functional._replicas import gathered

_STATUS = 128 + signal.SIGTERM  # as shells say that a process was ended by the signal


class Termination:
    """A context in which SIGTERM ends the run after a checkpoint, and not at once.

    A program with a handler of its own keeps that one; so does a thread that is not the main one,
    which Python gives no signals.

    Parameters
    ----------
    strategy : tf.distribute.Strategy
    watched : bool
        Whether there is a checkpoint to write; without, SIGTERM does what it does.
    """

    def __init__(self, strategy, *, watched):
        self.watched, self.asked, self._ours = watched, False, False
        self.alone = len(workers.task().addresses) == 1
        self._asked_of_all = tf.function(lambda own: strategy.run(gathered, (own,)))
        self._local = strategy.experimental_local_results

    def __enter__(self):
        in_main_thread = threading.current_thread() is threading.main_thread()
        free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self.watched and in_main_thread and free:
            signal.signal(signal.SIGTERM, self._note)
            self._ours = True
        return self

    def __exit__(self, *error):
        if self._ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _note(self, number, frame):
        self.asked = True

    def agreed(self, *, together):
        """Whether the run ends at this step, which all workers say alike.

        One process looks after every step. Several ask each other where they wait for each other
        anyway (``together``): to do so at every step would cost them a collective more.
        """
        if not self.watched or self.alone:
            return self.asked
        if not together:
            return False
        own = tf.constant(float(self.asked))
        return bool(tf.reduce_any(self._local(self._asked_of_all(own))[0] > 0))


def end(step, folder):
    """End the process with the status of SIGTERM, and say how to go on.

    Raises
    ------
    SystemExit
    """
    print(
        f"SIGTERM was received: the checkpoint of step {step} is in {folder}, and training ends. "
        "Start it again with the same command to go on from there",
        file=sys.stderr,
        flush=True,
    )
    raise SystemExit(_STATUS)
