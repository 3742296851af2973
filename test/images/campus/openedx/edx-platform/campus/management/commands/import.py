import pathlib

from django.core.management.base import BaseCommand, CommandError

from campus import courses, olx


class Command(BaseCommand):
    help = "Imports courses from folders in OLX."

    def add_arguments(self, parser):
        parser.add_argument("data_directory")
        parser.add_argument("course_dirs", nargs="*")
        parser.add_argument("--nostatic", action="store_true")

    def handle(self, data_directory, course_dirs, **options):
        base = pathlib.Path(data_directory)
        folders = [base / name for name in course_dirs] or sorted(p.parent for p in base.glob("*/course.xml"))
        if not folders:
            raise CommandError("no course in {}".format(base))
        for folder in folders:
            try:
                course = olx.read_folder(folder)
                files = [] if options["nostatic"] else course["files"]
                key = courses.publish(
                    course["org"], course["number"], course["run"], course["fields"], course["blocks"], files
                )
            except olx.BadCourse as error:
                raise CommandError("{}: {}".format(folder, error)) from error
            self.stdout.write("Imported {}".format(key))
