from django.core.management.base import BaseCommand

from campus.models import PolicyRule

POLICIES = [
    ("library_admin", "manage_library_team", "lib:*"),
    ("library_author", "edit_library_content", "lib:*"),
    ("library_contributor", "publish_library_content", "lib:*"),
    ("library_user", "view_library", "lib:*"),
]


class Command(BaseCommand):
    help = "Writes the standard roles and policies."

    def handle(self, **options):
        for role, action, scope in POLICIES:
            PolicyRule.objects.get_or_create(role=role, action=action, scope=scope)
        self.stdout.write("{} policies loaded".format(len(POLICIES)))
