"""Settings of the cms variant, completed from the file that the environment names."""

from openedx.core.lib import platform_settings

globals().update(platform_settings.production("cms"))
FEATURES = platform_settings.FeaturesProxy(globals())
