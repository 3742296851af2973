"""LMS after its migrations: search, the account of Studio, log-in by OAuth, switches."""

import site_values

values = site_values.VALUES

if values["meilisearch"]["enabled"]:
    import search.meilisearch

    print("== search indexes", flush=True)
    search.meilisearch.create_indexes()

site_values.call("manage_user", "cms", "cms@openedx", "--unusable-password")

site_values.quiet(
    "openedx.core.djangoapps.oauth_dispatch.management.commands.create_dot_application"
)
site_values.call(
    "create_dot_application",
    "--grant-type=authorization-code",
    "--redirect-uris=" + values["cms_url"] + "/complete/edx-oauth2/",
    "--client-id=cms-sso",
    "--client-secret=" + values["oauth2_secret"],
    "--scopes=user_id",
    "--skip-authorization",
    "--update",
    "cms-sso",
    "cms",
)

# An administrator's later choice stays.
if "completion.enable_completion_tracking" not in site_values.listed("waffle_switch"):
    site_values.call(
        "waffle_switch", "--create", "completion.enable_completion_tracking", "on"
    )

if values["load_policies"]:
    site_values.call("load_policies")
