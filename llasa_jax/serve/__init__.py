"""Speech over HTTP: OpenAI's speech API, search while you watch, and a page."""
