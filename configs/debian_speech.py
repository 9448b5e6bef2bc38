"""All recorded speech with its text that Debian packages hold, as token rows.

    llasa data prepare debian_speech --model runs/nano --out runs/debian/tokens

Dialogues of the game Fish Fillets, Dutch and Czech, text to speech and speech to text: 2.77 hours
after trimming (docs/data.md). Downloads 0.14 GB of packages once.
"""

from llasa_jax.config import DataRun


def get_config() -> DataRun:
    return DataRun(
        corpora=("fillets-nl", "fillets-cs"), kinds=("generation", "understanding"), row=2048
    )
