"""The component's side of the fork: what is given to it, and becoming it."""

# Lean on purpose: contextlib, pathlib and signal would double the shim's memory and its start.
# ruff: noqa: S606

import os

from flowctl_agent.shim.kernel import Prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

PR_SET_PDEATHSIG = 1


class Launch:
    """What the agent wrote to stdin."""

    def __init__(self, data: bytes) -> None:
        fields = data.split(b"\0")
        self.cwd = fields[0]
        self.stop_timeout_s = float(fields[1])
        self.log_file_bytes = int(fields[2])
        self.log_files = int(fields[3])
        self.argv, fields = _counted(fields[4:])
        self.secrets, fields = _counted(fields)
        pairs = [field.partition(b"=") for field in fields if field]
        self.env = {name: value for name, _, value in pairs}


def _counted(fields: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """As many fields as the first one says, and the rest."""
    count = int(fields[0])
    return fields[1 : 1 + count], fields[1 + count :]


def become_component(launch: Launch, prctl: Prctl, *, parent: int, out_fd: int, err_fd: int, report_fd: int) -> None:
    """In the forked child: never returns."""
    step = "fork"
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)
        _signal.set_wakeup_fd(-1)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGHUP, _signal.SIGINT):
            _signal.signal(number, _signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out_fd, 1)
        os.dup2(err_fd, 2)
        step = "chdir"
        os.chdir(launch.cwd)
        step = "exec"
        _execute(launch.argv, launch.env)
    except OSError as error:
        os.write(report_fd, f"{step} {error.errno}".encode())
    finally:
        os._exit(127)


def _execute(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    program = argv[0]
    if b"/" in program:
        os.execve(program, argv, env)
    denied: OSError | None = None
    missing: OSError = FileNotFoundError(2, "")
    for folder in env.get(b"PATH", os.defpath.encode()).split(b":"):
        try:
            os.execve((folder or b".") + b"/" + program, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            denied = denied or error
    raise denied or missing
