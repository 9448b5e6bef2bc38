"""Numbers about waves, texts and tokens, and how sure they are."""
