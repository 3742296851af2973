from django.apps import AppConfig


class HeartbeatConfig(AppConfig):
    name = "openedx.core.djangoapps.heartbeat"
    label = "heartbeat"
    default_auto_field = "django.db.models.AutoField"
