"""Checkpoints of a training run. The only file of the project that knows Orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from llasa_jax.errors import UserError


class Checkpoints:
    """The newest whole states of a run under `folder`; saving does not block the step loop."""

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.folder = folder
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        return self.manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        self.manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, template: Any) -> Any:
        """The state of `step`, with the template's structure, shapes and dtypes.

        Raises:
            UserError: if it is damaged or belongs to another configuration.
        """
        try:
            return self.manager.restore(step, args=ocp.args.StandardRestore(template))
        except (ValueError, KeyError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            place = f"checkpoint {self.folder}/{step}"
            raise UserError(
                f"{place}: cannot be restored ({reason}); delete {self.folder} to start again"
            ) from error

    def close(self) -> None:
        """Waits for saves under way."""
        self.manager.wait_until_finished()
        self.manager.close()
