"""Where a run's checkpoints lie."""

from pathlib import Path

from aimbench.errors import ConfigError


def run_folder(run: str, runs_root: Path) -> Path:
    """The folder of a finished (or stopped) run.

    Args:
        run: record id, or its beginning.
        runs_root: of checkpoints.

    Raises:
        ConfigError: no run, or more than one, has the id.
    """
    found = sorted(runs_root.glob(f"*/{run}*/definition.json")) if _is_plain(run) else []
    if len(found) != 1:
        known = ", ".join(path.parent.name for path in found[:5])
        problem = f"{len(found)} runs start with '{run}' ({known})" if found else f"no run '{run}'"
        raise ConfigError(
            f"{problem} under {runs_root}; its checkpoint must lie there, see --runs; the last line"
            " of 'aimbench results show ID' makes it again"
        )
    return found[0].parent


def _is_plain(run: str) -> bool:
    return all(c.isalnum() or c in "-_" for c in run)
