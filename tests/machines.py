"""Two machines on this one: an address, a name and processes of their own, joined by a cable.

They are namespaces of Linux's kernel, which ends all processes of one, and takes its network away,
when its first process has ended; that one reads from here, and so ends with this process too.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

# Seen by nobody else, so that every test may have the same.
HOSTS = {"n1": "10.77.0.1", "n2": "10.77.0.2"}
_APART = ("--net", "--mount", "--pid", "--uts")
_TOOLS = ("ip", "mount", "nsenter", "unshare")
# The first process adopts what others leave behind, and need not be asked to let it go.
_FIRST = """
trap '' CHLD
hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up && echo started && exec cat
"""


def why_not():
    """Why machines cannot be made here; an empty text if they can."""
    if missing := [each for each in _TOOLS if shutil.which(each) is None]:
        return f"machines need {', '.join(missing)}, which are not installed"
    made = subprocess.run(["unshare", *_APART, "--fork", "true"], capture_output=True)
    return "" if made.returncode == 0 else "machines need namespaces, which only root may make"


class Machine:
    """A machine that has been started.

    Parameters
    ----------
    name : str
        By which both machines find it, and its host name.
    keeper : subprocess.Popen
        Ends it when its standard input is closed.
    """

    def __init__(self, name, keeper):
        self.name, self.address, self.keeper, self._begun = name, HOSTS[name], keeper, []
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
        self.first = int(children.read_text())

    def inside(self, *words):
        """The command that runs another on this machine, in its root folder."""
        return ["nsenter", f"--target={self.first}", *_APART, "--", *map(str, words)]

    def run(self, *words, **options):
        """As `subprocess.run`, on this machine; what is said comes as text in ``stdout``."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        return subprocess.run(self.inside(*words), **options)

    def begin(self, *words, **options):
        """As `subprocess.Popen`, on this machine."""
        self._begun.append(subprocess.Popen(self.inside(*words), **options))
        return self._begun[-1]

    def end(self):
        """End it with all that runs on it, as when its power fails."""
        self.keeper.stdin.close()
        for process in (self.keeper, *self._begun):
            process.wait()


@contextlib.contextmanager
def machines(folder):
    """Two machines that see the same disk, with the names n1 and n2, until the context ends."""
    hosts = Path(folder, "hosts")
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in HOSTS.items())]
    hosts.write_text("\n".join(lines) + "\n")
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(_machine(name, hosts)) for name in HOSTS]
        one, other = (f"netns {each.first}" for each in both)
        ip = f"link add name eth0 {one} type veth peer name eth0 {other}"
        subprocess.run(["ip", *ip.split()], check=True)
        for each in both:
            for ip in (f"address add {each.address}/24 dev eth0", "link set eth0 up"):
                assert each.run("ip", *ip.split()).returncode == 0
        yield both


@contextlib.contextmanager
def _machine(name, hosts):
    first = ["sh", "-c", _FIRST, "sh", name, str(hosts)]
    keeper = subprocess.Popen(
        ["unshare", *_APART, "--fork", "--kill-child", "--mount-proc", *first],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    with keeper:
        assert keeper.stdout.readline() == "started\n"
        machine = Machine(name, keeper)
        try:
            yield machine
        finally:
            machine.end()
