from django.db import models


class DarkLangConfig(models.Model):
    """Languages that visitors may choose; the newest row counts."""

    changed = models.DateTimeField(auto_now_add=True)
    enabled = models.BooleanField(default=False)
    released_languages = models.TextField(blank=True)

    @classmethod
    def current(cls):
        return cls.objects.order_by("-id").first() or cls()

    @property
    def released_languages_list(self):
        return [code.strip() for code in self.released_languages.split(",") if code.strip()]
