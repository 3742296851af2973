from lms.celery import APP as CELERY_APP  # noqa: F401  shared tasks need it before any module that has them
