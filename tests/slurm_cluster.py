"""A Slurm cluster of two nodes, machines of tests/machines.py; the first has the controller."""

import contextlib
import shutil
import time
from pathlib import Path

import machines

NODES = tuple(machines.HOSTS)
_PROGRAMS = ("munged", "sbatch", "slurmctld", "slurmd", "srun")
_LIMIT = 60  # seconds, for the day it does not start

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost=n1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n[1-2] CPUs=2 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Why there can be no cluster here; an empty text if there can."""
    if missing := [each for each in _PROGRAMS if shutil.which(each) is None]:
        return f"Slurm is not installed (slurm-wlm, munge): there is no {', '.join(missing)}"
    return machines.why_not()


class Cluster:
    """A cluster that has been started.

    Parameters
    ----------
    nodes : list of machines.Machine
    environment : dict of str
        What a command needs to find it, and all that it is to see.
    """

    def __init__(self, nodes, environment):
        self.nodes, self.environment = nodes, environment

    def run(self, *words, **options):
        """Run a command of Slurm on the first node; what it says comes as text in ``stdout``."""
        return self.nodes[0].run(*words, env=self.environment, **options)

    def begin(self, *words, **options):
        """Start a command of Slurm on the first node."""
        return self.nodes[0].begin(*words, env=self.environment, **options)


@contextlib.contextmanager
def cluster(folder, environment):
    """A cluster whose files are in a folder, until the context ends."""
    folder = Path(folder)
    (folder / "state").mkdir()
    file = folder / "slurm.conf"
    file.write_text(_CONFIGURATION.format(folder=folder))
    with machines.machines(folder) as nodes:
        found = Cluster(nodes, {**environment, "SLURM_CONF": str(file)})
        _start_munge(found, folder)
        with (folder / "daemons").open("w") as said:
            found.begin("slurmctld", "-D", "-c", stdout=said, stderr=said)
            for node in nodes:
                node.begin("slurmd", "-D", "-N", node.name, stdout=said, stderr=said,
                           env=found.environment)  # fmt: skip
        _wait(found, folder)
        yield found


def _start_munge(found, folder):
    """The service by which the others prove who they are; one for both nodes, by a socket."""
    (folder / "munge.key").write_bytes(bytes(range(256)))
    (folder / "munge.key").chmod(0o400)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    words = [f"--{option}={folder / name}" for option, name in files.items()]
    done = found.run("munged", "--force", *words)
    assert done.returncode == 0, done.stdout


def _wait(found, folder):
    """Until both nodes are ready for jobs."""
    ends, said = time.monotonic() + _LIMIT, ""
    while said.split() != ["idle", "idle"]:
        if time.monotonic() > ends:
            logs = [f"{each}:\n{each.read_text()}" for each in folder.glob("*.log")]
            raise TimeoutError("\n".join([f"Slurm did not start: {said}", *logs]))
        said = found.run("sinfo", "--noheader", "--Node", "--format=%T").stdout
