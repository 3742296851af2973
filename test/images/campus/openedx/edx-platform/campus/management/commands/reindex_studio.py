from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from campus import tasks


class Command(BaseCommand):
    help = "Makes Studio's search index and has a worker fill it."

    def add_arguments(self, parser):
        parser.add_argument("--experimental", action="store_true")
        parser.add_argument("--reset", action="store_true")
        parser.add_argument("--init", action="store_true")
        parser.add_argument("--incremental", action="store_true")

    def handle(self, **options):
        if not settings.MEILISEARCH_ENABLED:
            raise CommandError("Meilisearch is not enabled. Please set MEILISEARCH_ENABLED to True in your settings.")
        from search.meilisearch import create_indexes

        create_indexes(["studio_content"])
        tasks.reindex_studio.delay()
        self.stdout.write("the worker fills the index")
