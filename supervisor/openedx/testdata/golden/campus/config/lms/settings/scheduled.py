"""What happens at set times, done by the workers when the scheduler asks.

A message of the queue names an entry of this table, never a command of its
own.
"""

import os

from celery import shared_task
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)

COMMANDS = {
    "instructor-tasks": ("process_scheduled_instructor_tasks",),
    "digest-daily": ("send_email_digest", "Daily"),
    "digest-weekly": ("send_email_digest", "Weekly"),
    "saml-metadata": ("saml", "--pull"),
    "expired-tokens": ("edx_clear_expired_tokens",),
}

LOG_SIZE = 50 << 20  # bytes
LOG_COUNT = 4


def rotate_logs():
    """Rename log files that have grown; their handlers open new ones."""
    from django.conf import settings

    for name in ("all.log", "tracking.log"):
        path = os.path.join(settings.LOG_DIR, name)
        try:
            if os.path.getsize(path) < LOG_SIZE:
                continue
        except FileNotFoundError:
            continue
        for number in range(LOG_COUNT - 1, 0, -1):
            older = "{}.{}".format(path, number)
            if os.path.exists(older):
                os.replace(older, "{}.{}".format(path, number + 1))
        os.replace(path, path + ".1")
        log.info("rotated %s", path)


@shared_task(name="tarima.scheduled", ignore_result=True)
def scheduled(entry):
    """Run the entry of the table."""
    if entry == "rotate-logs":
        rotate_logs()
        return
    from django.core.management import call_command, get_commands

    command, *arguments = COMMANDS[entry]
    if command not in get_commands():
        log.warning("%s: this release has no command %s", entry, command)
        return
    log.info("%s: %s %s", entry, command, " ".join(arguments))
    call_command(command, *arguments)
