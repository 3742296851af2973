import os

from django.apps import AppConfig
from django.conf import settings


class CampusConfig(AppConfig):
    name = "campus"
    default_auto_field = "django.db.models.AutoField"

    def ready(self):
        if not settings.OAUTH_ENFORCE_SECURE:
            # Tokens may be asked for by plain http inside the site.
            os.environ.setdefault("OAUTHLIB_INSECURE_TRANSPORT", "1")
