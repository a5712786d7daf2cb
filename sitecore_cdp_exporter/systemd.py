"""Notify systemd of what the exporter is doing, for a unit of `Type=notify`."""

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state such as `READY=1` to systemd, if it asked for notifications.

    Failures are only logged: the exporter works without systemd.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # systemd writes the leading zero byte of an abstract socket as @.
    target = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(target)
            sender.sendall(state.encode())
    except OSError as error:
        logger.warning("cannot notify systemd", extra={"state": state, "error": error.strerror})
