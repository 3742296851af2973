"""Hidden switches with which tests make a process misbehave.

They are read from the environment (CAMPUS_NAME=VALUE, fixed at start) and from
/openedx/data/campus.json (looked at every second, for all processes whose data
folder that is). The file is a mapping; under "web" and "worker" stand switches
for one kind of process only.

  ballast     true, or {"shared": MB, "private": MB, "boot": s}: be as heavy and slow
              to start as the real platform (web 350 + 150 MB and 30 s;
              worker 200 + 100 MB and 30 s)
  crash       exit code: end at start, with a traceback
  hang        true: alive, but no answer
  slow        seconds that every answer waits
  leak        MB each second, written to, until the limit ends the process
  flood       lines each second on standard output
  ignore_term true: SIGTERM changes nothing
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time

log = logging.getLogger(__name__)

FILE = os.environ.get("CAMPUS_FILE", "/openedx/data/campus.json")
NAMES = ("ballast", "crash", "hang", "slow", "leak", "flood", "ignore_term")
BALLAST = {
    "web": {"shared": 350, "private": 150, "boot": 30},
    "worker": {"shared": 200, "private": 100, "boot": 30},
}
# What Python and the application take themselves, counted as ballast.
OWN = 70
PAGE = 4096
MB = 1 << 20

_kept = []  # memory that must not be freed


def current(kind):
    """The switches of a kind of process, as they stand now."""
    found = {}
    for name in NAMES:
        value = os.environ.get("CAMPUS_" + name.upper())
        if value:
            found[name] = json.loads(value)
    try:
        with open(FILE, encoding="utf-8") as file:
            wanted = json.load(file)
        found.update({k: v for k, v in wanted.items() if k in NAMES})
        found.update({k: v for k, v in wanted.get(kind, {}).items() if k in NAMES})
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("%s is not usable: %s", FILE, error)
    return {k: v for k, v in found.items() if v}


def weigh(megabytes):
    """Take memory and write to each page of it."""
    if megabytes <= 0:
        return
    block = bytearray(megabytes * MB)
    for at in range(0, len(block), PAGE):
        block[at] = 1 + at // PAGE % 255
    _kept.append(block)


def ballast(kind, switches):
    """The ballast that is asked for, or None."""
    wanted = switches.get("ballast")
    if not wanted:
        return None
    return {**BALLAST[kind], **(wanted if isinstance(wanted, dict) else {})}


def load(kind):
    """Do at start what the switches ask for: crash, or become heavy and slow."""
    switches = current(kind)
    if "crash" in switches:
        try:
            raise RuntimeError("the switch 'crash' is on")
        except RuntimeError:
            log.exception("cannot start")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(switches["crash"]))
    heavy = ballast(kind, switches)
    if heavy is None:
        return
    # The platform takes its memory bit by bit while it imports its modules,
    # and is busy for a good part of that time.
    steps = max(1, int(heavy["boot"]))
    shared = max(0, heavy["shared"] - OWN)
    started = time.monotonic()
    for step in range(steps):
        weigh(shared * (step + 1) // steps - shared * step // steps)
        end = started + heavy["boot"] * (step + 1) / steps
        began = time.process_time()
        while time.process_time() - began < 0.3 and time.monotonic() < end:
            hash(os.urandom(64))
        time.sleep(max(0, end - time.monotonic()))


def after_fork(kind):
    """The part of the ballast that each process has for itself, and the watch."""
    heavy = ballast(kind, current(kind))
    if heavy:
        weigh(heavy["private"])
    watch(kind)


def watch(kind, freeze=False):
    threading.Thread(target=_watch, args=(kind, freeze), name="switches", daemon=True).start()


def _watch(kind, freeze):
    libc = ctypes.CDLL(None)
    deaf = False
    while True:
        switches = current(kind)
        if switches.get("ignore_term") and not deaf:
            # Past Python's own handlers: whatever set one at start loses it.
            libc.signal(signal.SIGTERM, ctypes.c_void_p(1))
            deaf = True
        if freeze and switches.get("hang"):
            # A call that keeps the interpreter's lock: no thread of this
            # process goes on, not for a moment, and nobody outside can see
            # why. Only a kill ends it.
            ctypes.PyDLL(None).sleep(24 * 3600)
        if switches.get("leak"):
            weigh(int(switches["leak"]))
        if switches.get("flood"):
            flood(min(int(switches["flood"]), 1_000_000))
        time.sleep(1)


def flood(lines):
    """Lines past Python's own output, which a worker turns into log messages."""
    with os.fdopen(1, "wb", closefd=False) as out:
        for number in range(lines):
            out.write(b"flood %d %s\n" % (number, b"x" * 100))


def around(application):
    """The application behind the switches that change its answers."""

    def answer(environ, start_response):
        while True:
            switches = current("web")
            if not switches.get("hang"):
                break
            time.sleep(0.5)
        if switches.get("slow"):
            time.sleep(float(switches["slow"]))
        return application(environ, start_response)

    return answer


def install_in_web():
    """In uWSGI's first process, before it forks the others."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    load("web")
    try:
        import uwsgidecorators
    except ImportError:  # another server: one process
        after_fork("web")
        return
    uwsgidecorators.postfork(lambda: after_fork("web"))
    # The first process is the one that gets SIGTERM.
    threading.Thread(target=_keep_deaf, name="deaf", daemon=True).start()


def _keep_deaf():
    """uWSGI sets its signal handlers after it has loaded the application."""
    libc = ctypes.CDLL(None)
    while True:
        if current("web").get("ignore_term"):
            libc.signal(signal.SIGTERM, ctypes.c_void_p(1))
        time.sleep(1)


def install_in_worker():
    """In a Celery worker's main process; other programs that load the queue are left alone."""
    if "worker" not in sys.argv:
        return
    load("worker")
    from celery import signals

    signals.worker_ready.connect(lambda **_: watch("worker", freeze=True), weak=False)
    signals.worker_process_init.connect(lambda **_: _child(), weak=False)


def _child():
    heavy = ballast("worker", current("worker"))
    if heavy:
        weigh(heavy["private"])
