from django.contrib.auth.hashers import identify_hasher
from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from campus.models import UserProfile


class Command(BaseCommand):
    help = "Creates an account, or brings it to the given state."

    def add_arguments(self, parser):
        parser.add_argument("username")
        parser.add_argument("email")
        parser.add_argument("--remove", action="store_true")
        parser.add_argument("--superuser", action="store_true")
        parser.add_argument("--staff", action="store_true")
        parser.add_argument("--unusable-password", action="store_true")
        parser.add_argument("--initial-password-hash")
        parser.add_argument("-g", "--groups", nargs="*", default=[])

    @transaction.atomic
    def handle(self, username, email, **options):
        user = User.objects.filter(username=username).first()
        if options["remove"]:
            if user is None:
                self.stderr.write("Did not find a user with username {} - skipping.".format(username))
                return
            if user.email.lower() != email.lower():
                raise CommandError("Skipping user {}: email addresses do not match ({}).".format(username, user.email))
            user.delete()
            self.stderr.write("Removing user: {}".format(username))
            return
        if user is None:
            user = User(username=username, email=email)
            if options["initial_password_hash"]:
                try:
                    identify_hasher(options["initial_password_hash"])
                except ValueError as error:
                    raise CommandError("The password hash provided for user {} is invalid.".format(username)) from error
                user.password = options["initial_password_hash"]
            else:
                user.set_unusable_password()
            self.stderr.write("Created new user: {}".format(username))
        elif user.email.lower() != email.lower():
            raise CommandError("Skipping user {}: email addresses do not match ({}).".format(username, user.email))
        if options["unusable_password"]:
            user.set_unusable_password()
        user.is_superuser, user.is_staff = options["superuser"], options["staff"]
        user.save()
        UserProfile.objects.get_or_create(user=user)
        groups = list(Group.objects.filter(name__in=options["groups"]))
        if len(groups) != len(set(options["groups"])):
            raise CommandError("Could not find all of the groups {}".format(options["groups"]))
        user.groups.set(groups)
