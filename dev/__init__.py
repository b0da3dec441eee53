"""The developer's tools: what `make` runs. The production image does not contain them."""
