"""Flags that the micro-frontends need. A flag that is there keeps its state."""

import site_values

site_values.call("populate_retirement_states")

there = site_values.listed("waffle_flag")
for name, on in site_values.VALUES["mfe_flags"].items():
    if name in there:
        continue
    if on:
        site_values.call("waffle_flag", "--create", "--everyone", name)
    else:
        site_values.call("waffle_flag", "--create", "--deactivate", name)
