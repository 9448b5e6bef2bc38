"""Checkpoints of a training run. The only file of the project that knows Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from llasa_jax.errors import UserError


class Checkpoints:
    """The newest whole states of a run under `folder`; saving does not block the step loop.

    Args:
        keep: so many of the newest are kept.
        keep_every: and those whose step is a multiple of it; 0 for none.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, create=True
        )
        self.folder = folder
        handler = ocp.StandardCheckpointHandler()
        self.manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handler
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        return self.manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Of all whole checkpoints, from the oldest to the newest."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        self.manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, template: Any) -> Any:
        """The state of `step`, with the template's structure, shapes and dtypes.

        Raises:
            UserError: if it is damaged or belongs to another configuration.
        """
        place = f"checkpoint {self.folder}/{step}"
        advice = f"delete {self.folder} to start again"
        try:
            held = _shapes(self.manager.item_metadata(step))
            wanted = _shapes(template)
            # Before it reads: of many arrays at once Orbax would complain in hundreds of lines.
            for name in sorted(held.keys() | wanted.keys(), key=lambda n: (".opt." in n, n)):
                if held.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{name} is {held.get(name, 'missing')} there, "
                        f"{wanted.get(name, 'missing')} in this configuration"
                    )
            return self.manager.restore(step, args=ocp.args.StandardRestore(template))
        except (ValueError, KeyError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"{place}: cannot be restored ({reason}); {advice}") from error

    def close(self) -> None:
        """Waits for saves under way."""
        self.manager.wait_until_finished()
        self.manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array by its path; of a state, or of what Orbax tells about one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: hasattr(node, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in leaves
    }
