"""Corpora, the prepared store of waves, token shards and the input pipeline."""
