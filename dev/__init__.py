"""The developer's tools: what `make` runs. Nothing here reaches the production image."""
