"""Llasa in JAX: one Llama decoder over text and speech, an FSQ codec, and verified search."""

__version__ = "0.1.0"
