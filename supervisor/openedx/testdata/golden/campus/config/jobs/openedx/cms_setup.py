"""Studio after its migrations."""

import site_values

values = site_values.VALUES

if values["load_policies"]:
    site_values.call("load_policies")
