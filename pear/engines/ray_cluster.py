"""Connects this process to Ray, for the engine `ray` and for a study's executor of that name."""

import os
from typing import Any

from pear.errors import UserError

# How often a cluster is tried; each time takes Ray half a minute. It would do so twenty times, without a word.
_TRIES = "RAY_gcs_server_port_wait_time_s"


def connect(address: str | None, *, setting: str, **options: Any) -> None:
    """Connects, as `ray.init` does.

    Args:
        address: of a running cluster, such as `auto`; None starts Ray on this machine.
        setting: what the user gives the address by, for the error.
        options: of `ray.init`, where Ray is started here.

    Raises:
        UserError: the cluster is not reachable, or Ray cannot be started.
    """
    import ray

    if address is None:
        given = {"address": "local", "include_dashboard": False, **options}
        where, hint = "started here", ""
    else:
        given = {"address": address}
        where, hint = f"reached at {address}", " Does it run? If it wants a token, set RAY_AUTH_MODE=token here too."
    before = os.environ.get(_TRIES)
    if address is not None:
        os.environ.setdefault(_TRIES, "1")
    try:
        ray.init(configure_logging=False, log_to_driver=False, **given)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{setting}: Ray cannot be {where} ({reason}).{hint}") from None
    finally:
        if before is None:
            os.environ.pop(_TRIES, None)
