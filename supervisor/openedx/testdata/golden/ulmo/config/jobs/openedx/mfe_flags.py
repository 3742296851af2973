"""Flags that the micro-frontends need. A flag that is there keeps its state.

On a site without micro-frontends the flags go, or the LMS would send people
to pages that nobody serves.
"""

import site_values

values = site_values.VALUES
there = site_values.listed("waffle_flag")

if values["mfe"]:
    site_values.call("populate_retirement_states")
    for name, on in values["mfe_flags"].items():
        if name not in there:
            state = "--everyone" if on else "--deactivate"
            site_values.call("waffle_flag", "--create", state, name)
else:
    unwanted = sorted(there & set(values["mfe_flags"]))
    if unwanted:
        site_values.call("waffle_delete", "--flags", *unwanted)
