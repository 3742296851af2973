"""Tests of the Python files that need no platform. usage: test_scripts.py ASSETS"""

import datetime
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import types
import unittest
import urllib.error
import urllib.request
import zoneinfo

ASSETS = pathlib.Path(sys.argv.pop(1))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ASSETS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scheduler = load("scheduler", "scheduler/scheduler.py")
BOGOTA = zoneinfo.ZoneInfo("America/Bogota")
MADRID = zoneinfo.ZoneInfo("Europe/Madrid")


def at(zone, *when):
    return datetime.datetime(*when, tzinfo=zone).timestamp()


class LastDue(unittest.TestCase):
    def test_every(self):
        self.assertEqual(scheduler.last_due({"every": 600}, 1_800_000_599, BOGOTA), 1_800_000_000)
        self.assertEqual(scheduler.last_due({"every": 600}, 1_800_000_600, BOGOTA), 1_800_000_600)

    def test_daily_is_local(self):
        entry = {"at": "08:05"}
        self.assertEqual(
            scheduler.last_due(entry, at(BOGOTA, 2026, 11, 24, 8, 5), BOGOTA), at(BOGOTA, 2026, 11, 24, 8, 5)
        )
        self.assertEqual(
            scheduler.last_due(entry, at(BOGOTA, 2026, 11, 24, 8, 4), BOGOTA), at(BOGOTA, 2026, 11, 23, 8, 5)
        )

    def test_weekly(self):
        entry = {"at": "08:20", "weekday": 0}  # Mondays
        for day in range(23, 30):
            self.assertEqual(
                scheduler.last_due(entry, at(BOGOTA, 2026, 11, day, 12, 0), BOGOTA), at(BOGOTA, 2026, 11, 23, 8, 20)
            )
        self.assertEqual(
            scheduler.last_due(entry, at(BOGOTA, 2026, 11, 23, 8, 19), BOGOTA), at(BOGOTA, 2026, 11, 16, 8, 20)
        )

    def test_clock_changes(self):
        # In Madrid 02:30 does not exist on 2026-03-29 and comes twice on 2026-10-25.
        entry = {"at": "02:30"}
        last = 0
        now = at(MADRID, 2026, 3, 27, 12)
        days = set()
        while now < at(MADRID, 2026, 3, 31, 12):
            due = scheduler.last_due(entry, now, MADRID)
            self.assertLessEqual(due, now)
            self.assertGreaterEqual(due, last)
            days.add(due)
            last, now = due, now + 900
        self.assertEqual(len(days), 5)
        now, days = at(MADRID, 2026, 10, 23, 12), set()
        while now < at(MADRID, 2026, 10, 27, 12):
            days.add(scheduler.last_due(entry, now, MADRID))
            now += 900
        self.assertEqual(len(days), 5)


class Serve(unittest.TestCase):
    entries = [{"name": "a", "queue": "q", "every": 600}, {"name": "b", "queue": "q", "every": 600}]

    def setUp(self):
        self.sent = []
        scheduler.log.disabled = True

    def serve(self, state, now, send=None):
        return scheduler.serve(self.entries, state, now, BOGOTA, send or (lambda e: self.sent.append(e["name"])))

    def test_once_each(self):
        state = {}
        self.assertEqual(self.serve(state, 6000), (True, None))
        self.assertEqual(self.sent, [])  # a new entry waits for its next moment
        self.assertEqual(self.serve(state, 6300), (False, None))
        self.serve(state, 6600)
        self.assertEqual(self.sent, ["a", "b"])
        self.serve(state, 6601)
        self.assertEqual(self.sent, ["a", "b"])
        self.serve(state, 60_000)  # away for long: once, not many times
        self.assertEqual(self.sent, ["a", "b", "a", "b"])

    def test_broker_away(self):
        state = {}
        self.serve(state, 6000)

        def send(entry):
            if entry["name"] == "a":
                raise ConnectionError("redis://:secret@redis")
            self.sent.append(entry["name"])

        changed, trouble = self.serve(state, 6600, send)
        self.assertTrue(changed)
        self.assertEqual(trouble, "a@q: ConnectionError")
        self.serve(state, 6601)
        self.assertEqual(self.sent, ["b", "a"])

    def test_state_on_disk(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "s.json")
            self.assertEqual(scheduler.read_state(path), {})
            scheduler.write_state(path, {"a@q": 6000.0})
            self.assertEqual(scheduler.read_state(path), {"a@q": 6000.0})
            for damage in ("", "[]", "{", '{"a": "b"}', "null"):
                path.write_text(damage)
                self.assertEqual(scheduler.read_state(path), {})


class WorkerHealth(unittest.TestCase):
    def test_answers_while_the_loop_beats(self):
        health = load("workerhealth", "settings/workerhealth.py")
        health.PORT = 0
        made = []
        real = health.http.server.ThreadingHTTPServer

        def server(address, handler):
            made.append(real(("127.0.0.1", 0), handler))
            return made[0]

        health.http.server.ThreadingHTTPServer = server
        try:
            health._ready()
        finally:
            health.http.server.ThreadingHTTPServer = real
        url = "http://127.0.0.1:{}/".format(made[0].server_address[1])
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(answer.status, 200)
        health._last_beat -= health.STALE + 1
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url)
        self.assertEqual(caught.exception.code, 503)
        caught.exception.close()
        health._beat()
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(answer.status, 200)
        made[0].shutdown()
        made[0].server_close()


class RotateLogs(unittest.TestCase):
    def test_keeps_a_few(self):
        sys.modules["celery"] = types.SimpleNamespace(shared_task=lambda **kw: lambda f: f)
        import logging

        sys.modules["celery.utils"] = types.ModuleType("celery.utils")
        sys.modules["celery.utils.log"] = types.SimpleNamespace(get_task_logger=logging.getLogger)
        with tempfile.TemporaryDirectory() as folder:
            sys.modules["django"] = types.ModuleType("django")
            sys.modules["django.conf"] = types.SimpleNamespace(settings=types.SimpleNamespace(LOG_DIR=folder))
            scheduled = load("scheduled", "settings/scheduled.py")
            scheduled.LOG_SIZE = 10
            log = pathlib.Path(folder, "all.log")
            for number in range(8):
                log.write_text("{:>10}".format(number))
                scheduled.rotate_logs()
            self.assertEqual(
                {p.name: p.read_text().strip() for p in pathlib.Path(folder).iterdir()},
                {"all.log.1": "7", "all.log.2": "6", "all.log.3": "5", "all.log.4": "4"},
            )
            log.write_text("short")
            scheduled.rotate_logs()
            self.assertEqual(log.read_text(), "short")


class Jobs(unittest.TestCase):
    def test_names_in_lists(self):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "site_values.py")
            target.write_text((ASSETS / "jobs/site_values.py").read_text())
            pathlib.Path(folder, "values.json").write_text(json.dumps({"a": "é"}))
            spec = importlib.util.spec_from_file_location("site_values", target)
            values = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(values)
            self.assertEqual(values.VALUES, {"a": "é"})

            def call_command(command, *arguments, stdout):
                stdout.write("Switches:\nNAME: a.b-c: on\n")
                stdout.write("other_one: off\n")

            sys.modules["django"] = types.ModuleType("django")
            sys.modules["django.core"] = types.ModuleType("django.core")
            sys.modules["django.core.management"] = types.SimpleNamespace(call_command=call_command)
            there = values.listed("waffle_switch")
            self.assertTrue({"a.b-c", "other_one"} <= there)
            self.assertNotIn("a.b", there)


if __name__ == "__main__":
    unittest.main()
