"""What can be said of a text before anything is made of it."""


def has_letters(text: str) -> bool:
    """Whether there is anything to speak: at least one letter of any script."""
    return any(character.isalpha() for character in text)
