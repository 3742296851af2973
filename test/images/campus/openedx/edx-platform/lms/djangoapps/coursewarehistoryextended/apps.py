from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class CoursewareHistoryExtendedConfig(AppConfig):
    name = "lms.djangoapps.coursewarehistoryextended"
    label = "coursewarehistoryextended"

    def ready(self):
        if "student_module_history" not in settings.DATABASES:
            raise ImproperlyConfigured("coursewarehistoryextended needs the database student_module_history")
