import logging

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from oauth2_provider.models import get_application_model

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Creates an OAuth application, or updates it."

    def add_arguments(self, parser):
        parser.add_argument("name")
        parser.add_argument("username")
        parser.add_argument("--grant-type", default="client-credentials")
        parser.add_argument("--redirect-uris", default="")
        parser.add_argument("--skip-authorization", action="store_true")
        parser.add_argument("--update", action="store_true")
        parser.add_argument("--public", action="store_true")
        parser.add_argument("--client-id")
        parser.add_argument("--client-secret")
        parser.add_argument("--scopes", default="")

    def handle(self, name, username, **options):
        model = get_application_model()
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError("User {} does not exist".format(username))
        values = {
            "user": user,
            "redirect_uris": options["redirect_uris"].replace(",", " "),
            "client_type": model.CLIENT_PUBLIC if options["public"] else model.CLIENT_CONFIDENTIAL,
            "authorization_grant_type": options["grant_type"],
            "skip_authorization": options["skip_authorization"],
        }
        if options["client_id"]:
            values["client_id"] = options["client_id"]
        if options["client_secret"]:
            values["client_secret"] = options["client_secret"]
        application = model.objects.filter(name=name).first()
        if application is not None and not options["update"]:
            log.info("Application with name %s and user %s already exists.", name, username)
            return
        if application is None:
            application = model(name=name)
        for field, value in values.items():
            setattr(application, field, value)
        application.save()
        log.info("Application %s with client id %s is there.", name, application.client_id)
