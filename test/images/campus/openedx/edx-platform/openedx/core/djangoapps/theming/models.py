from django.contrib.sites.models import Site
from django.db import models


class SiteTheme(models.Model):
    """The folder of the theme that a site shows."""

    site = models.ForeignKey(Site, related_name="themes", on_delete=models.CASCADE)
    theme_dir_name = models.CharField(max_length=255)
