from django.contrib.auth.models import User
from django.db import models

from campus.version import VERSION


class UserProfile(models.Model):
    user = models.OneToOneField(User, related_name="profile", on_delete=models.CASCADE)
    name = models.CharField(max_length=255, blank=True)
    language = models.CharField(max_length=20, blank=True)
    image = models.CharField(max_length=255, blank=True)
    activation_key = models.CharField(max_length=64, blank=True, db_index=True)


class CourseOverview(models.Model):
    """What the catalogue knows of a course; its content is in the course store."""

    id = models.CharField(max_length=255, primary_key=True)
    org = models.CharField(max_length=100)
    number = models.CharField(max_length=100)
    run = models.CharField(max_length=100)
    display_name = models.CharField(max_length=255)
    short_description = models.TextField(blank=True)
    language = models.CharField(max_length=20, blank=True)
    start = models.DateTimeField(null=True)
    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)
    if VERSION >= 2:
        catalog_order = models.IntegerField(default=0)


class CourseEnrollment(models.Model):
    user = models.ForeignKey(User, on_delete=models.CASCADE)
    course = models.ForeignKey(CourseOverview, on_delete=models.CASCADE)
    is_active = models.BooleanField(default=True)
    created = models.DateTimeField(auto_now_add=True)
    # The second version calls it a track, so that neither version works with
    # the other's tables.
    if VERSION >= 2:
        track = models.CharField(max_length=100, default="audit")
    else:
        mode = models.CharField(max_length=100, default="audit")

    MODE = "track" if VERSION >= 2 else "mode"

    class Meta:
        unique_together = [("user", "course")]


class RetirementState(models.Model):
    """A step in which an account is taken out of the site."""

    state_name = models.CharField(max_length=30, unique=True)
    state_execution_order = models.SmallIntegerField(unique=True)
    is_dead_end_state = models.BooleanField(default=False)
    required = models.BooleanField(default=False)


class PolicyRule(models.Model):
    """Which role may do what."""

    role = models.CharField(max_length=100)
    action = models.CharField(max_length=100)
    scope = models.CharField(max_length=100)

    class Meta:
        unique_together = [("role", "action", "scope")]


class StudioTask(models.Model):
    """An import that a worker does."""

    uuid = models.CharField(max_length=36, unique=True)
    course_id = models.CharField(max_length=255)
    state = models.CharField(max_length=20, default="pending")
    message = models.TextField(blank=True)
    modified = models.DateTimeField(auto_now=True)
