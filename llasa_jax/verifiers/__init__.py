"""Speech-understanding models that score candidates, and judges that only report."""
