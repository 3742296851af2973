"""A Celery worker says over HTTP whether it works.

Asking a worker by Celery's own remote control starts a whole platform process
for each question. Here its main process answers: from the moment at which it
consumes tasks, and for as long as its event loop beats.
"""

import http.server
import threading
import time

PORT = 8001
STALE = 60  # seconds without a beat (Celery's default is one in two seconds)

_last_beat = 0.0


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self):
        age = time.monotonic() - _last_beat
        body = "{:.0f} s since the last beat\n".format(age).encode()
        self.send_response(200 if age < STALE else 503)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """A probe every few seconds is no news."""


def _beat(**_):
    global _last_beat
    _last_beat = time.monotonic()


def _ready(**_):
    _beat()
    server = http.server.ThreadingHTTPServer(("", PORT), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()


def install():
    """Listen to the signals of a worker; other processes never send them."""
    from celery import signals

    signals.worker_ready.connect(_ready, weak=False, dispatch_uid="tarima-health-ready")
    signals.heartbeat_sent.connect(_beat, weak=False, dispatch_uid="tarima-health-beat")
