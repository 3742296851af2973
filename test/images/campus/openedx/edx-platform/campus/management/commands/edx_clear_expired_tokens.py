from django.core.management.base import BaseCommand
from oauth2_provider.models import clear_expired


class Command(BaseCommand):
    help = "Deletes tokens that are no longer valid."

    def handle(self, **options):
        clear_expired()
