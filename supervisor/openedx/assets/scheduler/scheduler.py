"""Asks the workers, at set times, for what has to happen regularly.

It loads no platform code: it only puts short messages into the task queues.
The times already served are kept, so that a restart neither repeats nor
forgets one.
"""

import datetime
import http.server
import json
import logging
import os
import pathlib
import signal
import sys
import threading
import time
import zoneinfo

HERE = pathlib.Path(__file__).parent
STATE = pathlib.Path("/openedx/data/schedule.json")
TICK = 15  # seconds
STALE = 120  # seconds without a tick

log = logging.getLogger("scheduler")


def last_due(entry, now, zone):
    """The latest moment at or before now at which the entry was due, in seconds."""
    if "every" in entry:
        return now - now % entry["every"]
    here = datetime.datetime.fromtimestamp(now, zone)
    hour, minute = (int(part) for part in entry["at"].split(":"))
    # fold=0: of the hour that comes twice when clocks go back, the first.
    due = here.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    for _ in range(8):
        if due.timestamp() <= now and entry.get("weekday") in (None, due.weekday()):
            return due.timestamp()
        due = (due - datetime.timedelta(days=1)).replace(hour=hour, minute=minute)
    raise ValueError("never due: {}".format(entry))


def read_state(path):
    """When each entry was served last; a damaged file counts as none."""
    try:
        state = json.loads(path.read_text())
        return {str(name): float(at) for name, at in state.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        log.warning("%s is damaged (%s): begin anew", path, error)
        return {}


def write_state(path, state):
    """Replace the file in one step."""
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def serve(entries, state, now, zone, send):
    """Send what is due; returns whether the state changed and what went wrong.

    An entry seen for the first time waits for its next moment. One that was
    due several times while nobody served it is sent once.
    """
    changed, trouble = False, None
    for entry in entries:
        name = entry["name"] + "@" + entry["queue"]
        due = last_due(entry, now, zone)
        if name not in state:
            state[name], changed = due, True
        elif state[name] < due:
            try:
                send(entry)
            except Exception as error:  # the broker is away: the next tick tries again
                trouble = "{}: {}".format(name, type(error).__name__)
                log.warning("not now: %s", trouble)
                continue
            state[name], changed = due, True
    return changed, trouble


class Health(http.server.BaseHTTPRequestHandler):
    """200 while the loop turns; /ready only if it could also send."""

    timeout = 5
    last_tick = time.monotonic()
    trouble = None

    def do_GET(self):
        well = time.monotonic() - Health.last_tick < STALE
        if self.path == "/ready":
            well = well and Health.trouble is None
        self.send_response(200 if well else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        """A probe every few seconds is no news."""


def main():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
    import celery

    plan = json.loads((HERE / "schedule.json").read_text(encoding="utf-8"))
    zone = zoneinfo.ZoneInfo(plan["timezone"])
    app = celery.Celery("scheduler", broker=plan["broker"], set_as_current=False)
    app.conf.broker_transport_options = {"fanout_patterns": True, "fanout_prefix": True}
    app.conf.broker_connection_timeout = 5

    def send(entry):
        app.send_task(
            "tarima.scheduled",
            args=[entry["name"]],
            queue=entry["queue"],
            expires=entry.get("every", 3600),  # late is worse than never
            ignore_result=True,
            retry=False,
        )
        log.info("asked for %s on %s", entry["name"], entry["queue"])

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = http.server.ThreadingHTTPServer(("", 8001), Health)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    state = read_state(STATE)
    while True:
        changed, Health.trouble = serve(plan["entries"], state, time.time(), zone, send)
        if changed:
            try:
                write_state(STATE, state)
            except OSError as error:  # a full disk: served all the same, remembered in memory
                log.warning("cannot keep %s: %s", STATE, error)
        Health.last_tick = time.monotonic()
        if stop.wait(TICK):
            return


if __name__ == "__main__":
    main()
