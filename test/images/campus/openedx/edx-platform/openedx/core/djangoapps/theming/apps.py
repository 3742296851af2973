from django.apps import AppConfig


class ThemingConfig(AppConfig):
    name = "openedx.core.djangoapps.theming"
    label = "theming"
    default_auto_field = "django.db.models.AutoField"
