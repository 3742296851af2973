#!/usr/bin/env python
"""The command line of both variants: manage.py lms|cms COMMAND …"""

import argparse
import os
import sys


def settings_module(variant, asked):
    """The settings of the variant: asked for, or those that the environment names."""
    if not asked:
        asked = os.environ.get("EDX_PLATFORM_SETTINGS")
    if not asked:
        _, _, asked = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".envs.")
    return "{}.envs.{}".format(variant, asked or "production")


def main():
    parser = argparse.ArgumentParser(usage="manage.py lms|cms [--settings NAME] COMMAND …", add_help=False)
    parser.add_argument("variant", choices=["lms", "cms"])
    parser.add_argument("--settings")
    parser.add_argument("--service-variant")
    known, rest = parser.parse_known_args()
    os.environ["SERVICE_VARIANT"] = known.service_variant or known.variant
    os.environ["DJANGO_SETTINGS_MODULE"] = settings_module(known.variant, known.settings)

    from django.core.management import execute_from_command_line

    execute_from_command_line([sys.argv[0], *rest])


if __name__ == "__main__":
    main()
