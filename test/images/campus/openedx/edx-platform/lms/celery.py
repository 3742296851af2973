"""The task queue of this variant: celery --app=lms.celery worker …"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lms.envs.production")

APP = Celery("lms")
APP.config_from_object("django.conf:settings")
APP.autodiscover_tasks()

from campus import switches  # noqa: E402

switches.install_in_worker()
