from llasa_jax.data.text import has_letters


def test_has_letters():
    assert has_letters("3 vissen") and has_letters("č")
    assert not has_letters("12:30, ... — 5%") and not has_letters("")
