"""Switches of this process for tests. Answers only to the names inside the site,
which no visitor's request can carry."""

import json
import os
import time

from django.conf import settings
from django.db import transaction
from django.http import Http404, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from campus import switches, tasks
from campus.version import VERSION

STARTED = time.time()


def inside(request):
    if request.get_host().partition(":")[0] not in ("lms", "cms"):
        raise Http404


def memory():
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        rows = dict(line.split(":") for line in file.read().splitlines()[1:])
    return {name: int(rows[name].split()[0]) // 1024 for name in ("Rss", "Pss", "Private_Dirty")}


@transaction.non_atomic_requests
def state(request):
    inside(request)
    return JsonResponse(
        {
            "version": VERSION,
            "variant": settings.SERVICE_VARIANT,
            "pid": os.getpid(),
            "started": STARTED,
            "memory": memory(),
            "switches": switches.current("web"),
        }
    )


@csrf_exempt
@transaction.non_atomic_requests
def switch(request):
    """PUT replaces the file of switches, DELETE removes it."""
    inside(request)
    if request.method == "DELETE":
        if os.path.exists(switches.FILE):
            os.remove(switches.FILE)
        return JsonResponse({})
    try:
        wanted = json.loads(request.body)
        if not isinstance(wanted, dict):
            raise ValueError("a mapping is expected")
    except ValueError as error:
        return JsonResponse({"error": str(error)}, status=400)
    part = switches.FILE + ".part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(wanted, file)
    os.replace(part, switches.FILE)
    return JsonResponse(wanted)


@csrf_exempt
@transaction.non_atomic_requests
def count(request, name):
    """Has a worker add one to a counter, and says where it stands."""
    from django.core.cache import caches

    inside(request)
    if request.method == "POST":
        tasks.count.delay(name)
    return JsonResponse({"count": caches["default"].get(name) or 0})
