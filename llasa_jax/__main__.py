import sys

from llasa_jax.cli import main

sys.exit(main())
