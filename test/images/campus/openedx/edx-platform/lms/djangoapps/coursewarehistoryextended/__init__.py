"""An application whose tables live in a second database: a site that has none
must take it out of INSTALLED_APPS, or the platform does not start."""
