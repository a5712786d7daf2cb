"""The command behind `make stack`.

    python -m stack [--config.file=config.yaml] [--data=.stack]

It starts the exporter (its demo, unless a config is given), Prometheus with the alert rules, Alertmanager, and a
receiver that prints the alerts. All listen on loopback. When one of them ends, all end, with exit status 1.
"""

import argparse
import fcntl
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stack.config_files import ROOT, Addresses, alertmanager_config, prometheus_config
from stack.programs import Server, running

SECONDS_BETWEEN_LOOKS = 0.25
# Their usual ports. Debian's packages start services on those of Prometheus and Alertmanager, so any may be taken.
PORTS = Addresses(exporter="10311", prometheus="9090", alertmanager="9093", webhook_receiver="9099")


class StackError(Exception):
    """The stack cannot run; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stack; return the exit code: 0 after a signal, 1 if it cannot run or a program exited."""
    parser = argparse.ArgumentParser(prog="stack", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--config.file",
        dest="config_file",
        type=Path,
        metavar="PATH",
        help="config file of the exporter (default: none, the exporter runs its demo)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".stack",
        metavar="PATH",
        help="folder for databases, silences and logs, which stay when the stack ends (default: .stack)",
    )
    arguments = parser.parse_args(argv)
    stopping = threading.Event()
    # SIGHUP, because the programs would take that of a closed terminal for a wish to reload.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    try:
        run(arguments.data.absolute(), arguments.config_file, stopping)
    except OSError as error:
        print(f"stack: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201  The output of the command.
        return 1
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)  # noqa: T201  The output of the command.
        return 1
    return 0


def run(data: Path, exporter_config: Path | None, stopping: threading.Event) -> None:
    """Run all programs until `stopping` is set.

    Raises:
        StackError: A program is missing or has ended, or another stack uses the folder.

    """
    prometheus, alertmanager = _find("prometheus"), _find("prometheus-alertmanager", "alertmanager")
    with _locked_folder(data) as lock, ExitStack() as all_servers:
        with ExitStack() as listeners:
            addresses = choose_addresses(listeners)
        _write_configs(data, addresses)
        servers: list[Server] = []

        def start(
            name: str, command: Sequence[str], address: str, *, ready: str = "/-/ready", log: bool = True
        ) -> None:
            server = running(
                name,
                command,
                ready_url=f"http://{address}{ready}",
                log=data / f"{name}.log" if log else None,
                lock=lock,
            )
            servers.append(all_servers.enter_context(server))

        start(
            "webhook-receiver",
            [
                sys.executable,
                str(Path(__file__).parent / "webhook_receiver.py"),
                f"--web.listen-address={addresses.webhook_receiver}",
            ],
            addresses.webhook_receiver,
            ready="/",
            log=False,
        )
        start(
            "alertmanager",
            [
                alertmanager,
                f"--config.file={data / 'alertmanager.yml'}",
                f"--storage.path={data / 'alertmanager'}",
                # As in compose.yaml, which says why.
                "--data.retention=240h",
                f"--web.listen-address={addresses.alertmanager}",
                f"--web.external-url=http://{addresses.alertmanager}/",
                # One Alertmanager needs no gossip.
                "--cluster.listen-address=",
            ],
            addresses.alertmanager,
        )
        start(
            "exporter",
            [
                sys.executable,
                str(ROOT / "exporter.py"),
                "--demo" if exporter_config is None else f"--config.file={exporter_config}",
                f"--web.listen-address={addresses.exporter}",
            ],
            addresses.exporter,
        )
        start(
            "prometheus",
            [
                prometheus,
                f"--config.file={data / 'prometheus.yml'}",
                f"--storage.tsdb.path={data / 'prometheus'}",
                f"--web.listen-address={addresses.prometheus}",
                f"--web.external-url=http://{addresses.prometheus}/",
                # As in compose.yaml, which says why.
                "--rules.alert.for-grace-period=1m",
            ],
            addresses.prometheus,
        )
        if _wait_until_ready(servers, stopping):
            is_demo = exporter_config is None
            sandbox = line_about_the_sandbox(data / "exporter.log", servers, stopping) if is_demo else ""
            _print_urls(addresses, data, sandbox)
            _wait_until_one_ends(servers, stopping)


def _find(*names: str) -> str:
    """Return the path of a program that has one of these names."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise StackError(
        f"{' or '.join(names)} is not on the PATH. Debian and Ubuntu have it: sudo apt install {names[0]}\n"
        "Elsewhere see https://prometheus.io/download/, or use Docker: docker compose up"
    )


@contextmanager
def _locked_folder(data: Path) -> Iterator[int]:
    """Lock the folder, and give the descriptor that holds the lock."""
    data.mkdir(parents=True, exist_ok=True)
    # Nothing in it is for a repository.
    (data / ".gitignore").write_text("*\n", encoding="ascii")
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"another stack, or what is left of one that was killed, uses {data}; "
                "end its programs, or give this one a folder of its own: --data=PATH"
            ) from None
        yield lock.fileno()


def choose_addresses(listeners: ExitStack) -> Addresses:
    """Choose the usual port of each program, or any other where that is taken.

    They are kept until `listeners` is closed, so that neither this stack nor another one chooses them again.
    """

    def listen(port: str) -> str:
        # What an earlier stack has left in TIME_WAIT does not count.
        listener = socket.create_server(("127.0.0.1", int(port)))
        listeners.enter_context(listener)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def choose(port: str) -> str:
        try:
            return listen(port)
        except OSError:
            return listen("0")

    return Addresses(
        exporter=choose(PORTS.exporter),
        prometheus=choose(PORTS.prometheus),
        alertmanager=choose(PORTS.alertmanager),
        webhook_receiver=choose(PORTS.webhook_receiver),
    )


def _write_configs(data: Path, addresses: Addresses) -> None:
    (data / "prometheus.yml").write_text(prometheus_config(addresses), encoding="utf-8")
    (data / "alertmanager.yml").write_text(alertmanager_config(addresses), encoding="utf-8")


def _wait_until_ready(servers: Sequence[Server], stopping: threading.Event) -> bool:
    """Return whether all programs became ready, before `stopping` was set."""
    while not all(server.is_ready() for server in servers):
        if stopping.wait(SECONDS_BETWEEN_LOOKS):
            return False
        _check(servers, stopping)
    return not stopping.is_set()


def _wait_until_one_ends(servers: Sequence[Server], stopping: threading.Event) -> None:
    while not stopping.wait(SECONDS_BETWEEN_LOOKS):
        _check(servers, stopping)


def _check(servers: Sequence[Server], stopping: threading.Event) -> None:
    for server in servers:
        # Ctrl-C reaches the programs, too. One that exits because of it has not failed.
        if server.has_ended() and not stopping.wait(SECONDS_BETWEEN_LOOKS):
            raise StackError(server.how_it_ended())


def line_about_the_sandbox(log: Path, servers: Sequence[Server], stopping: threading.Event) -> str:
    """Wait for the demo's line with the address of its sandbox, and return it; empty if `stopping` is set first.

    Raises:
        StackError: One of the programs has exited.

    """
    while not stopping.is_set():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if "the sandbox itself" in line:
                return f"{line}\n"
        _check(servers, stopping)
        stopping.wait(SECONDS_BETWEEN_LOOKS)
    return ""


def _print_urls(addresses: Addresses, data: Path, sandbox: str) -> None:
    print(  # noqa: T201  The output of the command.
        "\n"
        "Everything runs; it takes a few minutes until the first alert. Alerts are printed below.\n"
        "\n"
        f"    http://{addresses.prometheus}/  Prometheus: under Alerts, the alert rules and what fires\n"
        f"    http://{addresses.alertmanager}/  Alertmanager, or: amtool alert --alertmanager.url=http://{addresses.alertmanager}\n"
        f"    http://{addresses.exporter}/  the exporter: what is watched\n"
        f"{sandbox}"
        f"    {data}  databases, silences and logs; remove it to start afresh\n"
        "\n"
        f"The commands of docs/runbook.md need this first: ALERTMANAGER=http://{addresses.alertmanager}\n"
        "Ctrl-C ends all of it.\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
