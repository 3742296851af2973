"""Changes to MODULESTORE that a site's settings make."""


def update_module_store_settings(
    module_store_setting,
    doc_store_settings=None,
    module_store_options=None,
    xml_store_options=None,
    default_store=None,
    mappings=None,
):
    """Give every store the document store's settings and the options."""
    stores = module_store_setting["default"]["OPTIONS"]["stores"]
    for store in stores:
        if doc_store_settings:
            store["DOC_STORE_CONFIG"].update(doc_store_settings)
        if module_store_options:
            store["OPTIONS"].update(module_store_options)
    if mappings is not None:
        module_store_setting["default"]["OPTIONS"]["mappings"] = mappings
    if default_store:
        for store in stores:
            if store["NAME"] == default_store:
                stores.remove(store)
                stores.insert(0, store)
                return
        raise Exception("Could not find setting for requested default store: {}".format(default_store))
