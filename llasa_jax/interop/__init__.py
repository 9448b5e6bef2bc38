"""Layouts of the outside world, in and out: every tensor is used or the file is refused."""
