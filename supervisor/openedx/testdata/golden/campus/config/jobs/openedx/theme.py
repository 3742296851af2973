"""The release's theme for LMS and Studio, unless an administrator chose another."""

import site_values

from django.contrib.sites.models import Site

values = site_values.VALUES

for domain in (values["lms_host"], values["cms_host"]):
    site = Site.objects.get(domain=domain)
    if not site.themes.exists():
        print("== theme {} for {}".format(values["theme"], domain), flush=True)
        site.themes.create(theme_dir_name=values["theme"])
