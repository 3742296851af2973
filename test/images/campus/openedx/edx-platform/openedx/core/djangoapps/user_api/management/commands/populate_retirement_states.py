from django.core.management.base import BaseCommand
from django.db import transaction

from campus.models import RetirementState

STATES = ["PENDING", "RETIRING_FORUMS", "FORUMS_COMPLETE", "RETIRING_LMS", "LMS_COMPLETE", "ERRORED", "ABORTED", "COMPLETE"]
ENDS = {"ERRORED", "ABORTED", "COMPLETE"}


class Command(BaseCommand):
    help = "Writes the steps in which accounts are retired."

    def add_arguments(self, parser):
        parser.add_argument("--dry-run", action="store_true")

    @transaction.atomic
    def handle(self, **options):
        for number, name in enumerate(STATES, 1):
            RetirementState.objects.update_or_create(
                state_name=name,
                defaults={
                    "state_execution_order": number,
                    "is_dead_end_state": name in ENDS,
                    "required": name == "PENDING" or name in ENDS,
                },
            )
        if options["dry_run"]:
            transaction.set_rollback(True)
        self.stdout.write("States have been synchronized.")
