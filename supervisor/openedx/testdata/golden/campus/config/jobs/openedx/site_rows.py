"""The site's names in the database.

Mail that is made outside a request takes its links from the row whose number
is SITE_ID. Django fills that row with example.com; here it gets the LMS's name.
"""

import site_values

from django.conf import settings
from django.contrib.sites.models import Site
from django.db import transaction

values = site_values.VALUES


def name_site(number, domain, name):
    """Give the row of this number the domain, whoever had it before."""
    name = name[: Site._meta.get_field("name").max_length]
    with transaction.atomic():
        other = Site.objects.filter(domain=domain).exclude(id=number).first()
        if other is not None:
            # Domains are unique. Rows of other tables may point here, so the
            # row stays, under a name that nobody can ask for.
            other.domain = "site-{}.invalid".format(other.id)
            other.save()
            print("== row {} had {}: now {}".format(other.id, domain, other.domain), flush=True)
        row, made = Site.objects.get_or_create(
            id=number, defaults={"domain": domain, "name": name}
        )
        if (row.domain, row.name) != (domain, name):
            print("== row {}: {} becomes {}".format(number, row.domain, domain), flush=True)
            row.domain, row.name = domain, name
            row.save()


name_site(settings.SITE_ID, values["lms_host"], values["platform_name"])
Site.objects.get_or_create(
    domain=values["cms_host"], defaults={"name": values["cms_host"][:50]}
)
Site.objects.clear_cache()

try:
    from openedx.core.djangoapps.dark_lang.models import DarkLangConfig
except ImportError:
    print("== this release does not restrict languages", flush=True)
else:
    languages = ", ".join(values["languages"])
    current = DarkLangConfig.current()
    if (current.enabled, current.released_languages) != (True, languages):
        print("== languages:", languages, flush=True)
        DarkLangConfig(enabled=True, released_languages=languages).save()
