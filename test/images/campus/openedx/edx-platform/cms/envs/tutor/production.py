from cms.envs.production import *  # noqa: F401,F403  replaced by the site's own folder
