"""Text on its way to the model: what is read aloud, sentence by sentence, in pieces of its size."""
