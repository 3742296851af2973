"""The application that uWSGI serves."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cms.envs.production")

from campus import switches  # noqa: E402

switches.install_in_web()

from django.core.wsgi import get_wsgi_application  # noqa: E402

application = switches.around(get_wsgi_application())
