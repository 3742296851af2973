"""Settings of the lms variant, completed from the file that the environment names."""

from openedx.core.lib import platform_settings

globals().update(platform_settings.production("lms"))
FEATURES = platform_settings.FeaturesProxy(globals())
