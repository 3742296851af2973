"""What the initialisation steps share. Runs inside `manage.py VARIANT shell`."""

import io
import json
import logging
import pathlib
import re

VALUES = json.loads(pathlib.Path(__file__).with_name("values.json").read_text(encoding="utf-8"))


def call(command, *arguments):
    """A management command, named in the log without its arguments."""
    from django.core.management import call_command

    print("==", command, flush=True)
    return call_command(command, *arguments)


def listed(command):
    """The names in what the command lists."""
    from django.core.management import call_command

    text = io.StringIO()
    call_command(command, "--list", stdout=text)
    return set(re.findall(r"[\w.-]+", text.getvalue().replace(": ", " ")))


def quiet(logger):
    """Some commands log the secrets that they were given."""
    logging.getLogger(logger).setLevel(logging.WARNING)
