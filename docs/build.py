"""Build the site: ``python docs/build.py html|fast|linkcheck`` (what the Makefile calls).

Sphinx writes to a folder of its own; only a build without a warning replaces ``_build/html``, so an
interrupted or failed one leaves the last good site in place. Pages that ran are cached as they
finish, so the next build goes on where this one stopped.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import unchanged

DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
SCALES = ("quick", "full")
KINDS = ("CPU", "GPU")
BUILDERS = {"html": "html", "fast": "html", "linkcheck": "linkcheck"}
# What the C++ side of TensorFlow and the notebooks' kernels say at every start, of no use here.
NOISE = re.compile(
    rb"WARNING: All log messages before absl|[IWE]0000 |\[IPKernelApp\] WARNING \| Kernel is"
    rb"|To enable the following instructions: |WARNING:tensorflow:[56] out of the last"
    rb"|WARNING:tensorflow:From .*tf_keras|Instructions for updating:|Colocations handled auto"
)
# Pages run two at a time, and each process's threads wait for work by spinning: where every process
# has a thread a core, two of them take longer than one after the other.
PARALLEL = 2
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
PACKED = {".png", ".woff2", ".zip"}  # files that do not become smaller
CHANCES = 3  # TensorFlow ends a process now and then, and a build has some 70 pages
LAST = b"(end of the build's messages)\n"
# What joblib says of a worker that was killed, or that TensorFlow took down with it.
DIED = b"A worker process managed by the executor was unexpectedly terminated"


def main(mode):
    """Build in ``mode`` and return Sphinx's exit status."""
    if mode not in BUILDERS:
        sys.exit(f"mode must be one of {', '.join(BUILDERS)}; received {mode!r}")
    prepare_environment(mode)
    site = BUILD / ("html" if mode == "html" else "html-fast")
    now = unchanged.key() if mode != "linkcheck" else None
    if now and unchanged.is_built(site, now):
        print(f"Nothing has changed since the site was built. Open\n  {site}/index.html")
        return 0
    started, doctrees, output = time.time(), BUILD / f"doctrees-{mode}", BUILD / f"work-{mode}"
    status = 1
    try:
        status = run_with_second_chance(BUILDERS[mode], doctrees, output)
    finally:
        if status:
            # A page that warned once is not read again: the next build must read all of them.
            shutil.rmtree(doctrees, ignore_errors=True)
    if status == 0 and now:
        unchanged.mark_of(site).unlink(missing_ok=True)
        publish(output, site)
        unchanged.mark_of(site).write_text(now)
        print(f"\nThe site is ready after {time.time() - started:.0f} s. Open\n  {site}/index.html")
    elif status:
        print("\nThe build failed; the messages above name the page.", file=sys.stderr)
    return status


def prepare_environment(mode):
    """Set what the gallery's and the notebooks' processes inherit."""
    os.environ["BNREF_DEVICE"] = device_kind()
    os.environ["BNREF_SCALE"] = scale()  # names a wrong value before anything is run
    print(f"Building the {os.environ['BNREF_SCALE']} site on {os.environ['BNREF_DEVICE']}s")
    if mode == "html" and not (DOCS / "gallery").exists():
        # A first build: fetch the data once, so that no page has to and no cache key changes.
        subprocess.run([sys.executable, "-m", "bnref_gallery.datasets"], check=True)
    os.environ["BNREF_DOWNLOAD"] = "0"
    os.environ["BNREF_EXECUTE"] = "1" if mode == "html" else "0"
    folders = [DOCS / "_lean", DOCS / "_ext", DOCS]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ["BNREF_DEVICE"] == "CPU":
        for variable in THREADS:
            os.environ.setdefault(variable, str(max(1, cores() // PARALLEL)))
    os.environ.pop("MPLBACKEND", None)  # the notebooks' kernel draws into the page
    # A kernel of the same name elsewhere on the machine must not run the pages.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    # A worker that grew beyond what `foot` allows is replaced, which is right, and joblib says so.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")


def device_kind():
    """GPU where TensorFlow sees one, else CPU; asks TensorFlow only where a GPU may be."""
    known = os.environ.get("BNREF_DEVICE")
    if known:
        if known not in KINDS:
            sys.exit(f"BNREF_DEVICE must be one of {', '.join(KINDS)}; received {known!r}")
        return known
    nodes = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not any(Path(node).exists() for node in nodes):
        return "CPU"
    code = "from bnref import devices; print(devices.names(1)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1].partition(":")[0]


def cores():
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def scale():
    """``BNREF_SCALE``, or full on a GPU and quick elsewhere."""
    wanted = os.environ.get("BNREF_SCALE") or ("full" if device_kind() == "GPU" else "quick")
    if wanted not in SCALES:
        sys.exit(f"BNREF_SCALE must be one of {', '.join(SCALES)}; received {wanted!r}")
    return wanted


def run_with_second_chance(builder, doctrees, output):
    """Run Sphinx, and once or twice more if a worker process died.

    TensorFlow 2.21 now and then ends a process where Keras's ``fit`` runs under several replicas
    and frees what it fetched ahead. A page that fails in any other way gets no second chance, and
    pages that have finished are not run again.
    """
    for left in reversed(range(CHANCES)):
        with filtered_stderr() as died:
            status = run_sphinx(builder, doctrees, output)
        if not status or not died.is_set():
            break
        if left:
            print("\nA worker process died, not a page's claim: once more.", file=sys.stderr)
    return status


def run_sphinx(builder, doctrees, output):
    """Run Sphinx with every warning an error."""
    from sphinx.cmd.build import build_main

    options = ["-b", builder, "-d", str(doctrees), "-W", "--keep-going", "-j", str(PARALLEL)]
    return build_main([*options, str(DOCS), str(output)])


@contextlib.contextmanager
def filtered_stderr():
    """Pass on what is written to standard error, by child processes too, without the noise.

    Yields an event that is set when joblib says that a worker died.
    """
    (reading, writing), original, died = os.pipe(), os.dup(2), threading.Event()

    def pass_on():
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if line == LAST:
                    return  # not the end of the pipe: a worker that lives on holds it open
                if DIED in line:
                    died.set()
                if not NOISE.match(line):
                    os.write(original, line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    os.dup2(writing, 2)
    os.close(writing)
    try:
        yield died
    finally:
        sys.stderr.flush()
        os.write(2, LAST)
        os.dup2(original, 2)
        thread.join()


def publish(output, site):
    """Replace ``site`` by a lighter copy of ``output``."""
    import as_markdown
    import notebooks
    from lighten import lighten

    fresh, old = site.with_name(site.name + ".new"), site.with_name(site.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(output, fresh, ignore=shutil.ignore_patterns(".buildinfo", "objects.inv.tmp"))
    as_markdown.write(fresh)
    notebooks.write(fresh)
    lighten(fresh)
    pack(fresh)
    if site.exists():
        site.rename(old)
    fresh.rename(site)
    shutil.rmtree(old, ignore_errors=True)


def pack(site):
    """All of the site in ``site.zip``, to read where there is no network."""
    files = [path for path in sorted(site.rglob("*")) if path.is_file()]
    with zipfile.ZipFile(site / "site.zip", "w", compresslevel=1) as archive:
        for path in files:
            packed = zipfile.ZIP_STORED if path.suffix in PACKED else zipfile.ZIP_DEFLATED
            archive.write(path, Path("bnref", path.relative_to(site)), compress_type=packed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "html"))
