from django.apps import AppConfig


class DarkLangConfig(AppConfig):
    name = "openedx.core.djangoapps.dark_lang"
    label = "dark_lang"
    default_auto_field = "django.db.models.AutoField"
