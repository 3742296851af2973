"""Studio's search index and the course index. Nothing waits for it: on a large site it takes hours."""

import site_values

site_values.call("reindex_studio")
site_values.call("reindex_course", "--active")
