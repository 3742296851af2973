import logging

from django.conf import settings
from django.db import transaction
from django.http import JsonResponse
from django.utils.module_loading import import_string

log = logging.getLogger(__name__)


@transaction.non_atomic_requests
def heartbeat(request):
    """200 when everything that the site needs answers, else 503."""
    checks = list(settings.HEARTBEAT_CHECKS)
    if "extended" in request.GET:
        checks += list(settings.HEARTBEAT_EXTENDED_CHECKS)
    answer = {}
    try:
        for path in checks:
            name, ok, message = import_string(path)()
            answer[name] = {"status": ok, "message": message}
    except Exception as error:
        log.exception("heartbeat")
        return JsonResponse({"error": str(error)}, status=503)
    status = 200 if all(check["status"] for check in answer.values()) else 503
    return JsonResponse(answer, status=status)
