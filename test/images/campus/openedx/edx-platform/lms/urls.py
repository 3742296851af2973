from campus.urls import urlpatterns  # noqa: F401
