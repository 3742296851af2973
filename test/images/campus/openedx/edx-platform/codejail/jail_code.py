"""The sandbox's settings. There is no sandbox here: code is never run."""

COMMANDS = {}


def configure(command, bin_path, user=None):
    COMMANDS[command] = {"cmdline_start": [bin_path], "user": user}


def is_configured(command):
    return command in COMMANDS
