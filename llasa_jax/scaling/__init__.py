"""Scaling laws: the ladder of runs, the fit, the forecast, the figures."""
