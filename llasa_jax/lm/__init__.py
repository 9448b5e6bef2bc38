"""The language model: a Llama decoder over one stream of text and speech ids."""
