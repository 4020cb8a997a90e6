"""The environment that a step finds in any image, as any user, on any node: home, caches, driver, secrets."""

from __future__ import annotations

import os

from supervisor.ends import put, refusal, say
from supervisor.node import Node

CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUDA_CACHE_PATH": "nv",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "VLLM_CACHE_ROOT": "vllm",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "TILELANG_CACHE_DIR": "tilelang",
    "HF_MODULES_CACHE": "huggingface-modules",  # code of models: in HF_HOME all nodes would write the same files
}
# File systems that no other node writes to, as `stat` calls them. Workers lock files in their caches, which network
# file systems answer with stale handles where there are many.
OF_THIS_NODE = {"btrfs", "ext2/ext3", "f2fs", "overlayfs", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}


class Places:
    """HOME, a name and caches: a user without an entry in passwd has HOME=/ and no name, and most caches live below
    HOME. `own`: folders that were made for this run."""

    def __init__(self, node: Node) -> None:
        self._node, self._env = node, node.env
        self.own: list[str] = []

    def make(self) -> None:
        """Sets them in the node's environment. Raises Ended."""
        env = self._env
        if env.get("HOME", "/") in ("", "/") or not writable(env["HOME"]):
            bases = (env.get("TMPDIR") or "/tmp", "/tmp", self._node.folder)
            base = next((base for base in bases if writable(base)), self._node.folder)
            env["HOME"] = self._folder(base, "home")
        env["USER"] = env.get("USER") or name_of_user()
        env["LOGNAME"] = env.get("LOGNAME") or env["USER"]
        root = f"{env['HOME']}/.cache"
        if not env.get("XDG_CACHE_HOME") and not self._is_of_this_node(env["HOME"]):
            root = self._folder(env.get("TMPDIR") or "/tmp", "cache")
            say(f"caches are in {root}: HOME, {env['HOME']}, is on other nodes, too")
        self._keep("XDG_CACHE_HOME", root)
        for name, folder in CACHES.items():
            self._keep(name, f"{env['XDG_CACHE_HOME']}/{folder}")
        caches = [env[name] for name in ("XDG_CACHE_HOME", *CACHES)]
        try:
            for cache in caches:
                os.makedirs(cache, exist_ok=True)
        except OSError:
            raise refusal(f"{' '.join(caches)}: cannot be made; mount a writable /tmp") from None
        env["PYTHONUNBUFFERED"] = "1"

    def remove(self) -> None:
        for path in self.own:
            remove_tree(path)

    def _keep(self, name: str, default: str) -> None:
        """The variable keeps a folder that can be written, else it gets the default."""
        if not writable(self._env.get(name, "")):
            self._env[name] = default

    def _folder(self, base: str, what: str) -> str:
        path = f"{base}/slipway-{what}.{os.urandom(6).hex()}"
        try:
            os.mkdir(path, 0o700)
        except OSError:
            raise refusal(f"{base}: cannot make a {what} there") from None
        self.own.append(path)
        return path

    def _is_of_this_node(self, path: str) -> bool:
        try:
            return self._node.children.output_of(["stat", "-f", "-c", "%T", path], self._env)[1] in OF_THIS_NODE
        except OSError:
            return False


def writable(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK)


def remove_tree(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def name_of_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


def find_driver(node: Node) -> str:
    """Where the driver's version stands: the kernel's file, or, in WSL2, which has none, what nvidia-smi says."""
    file = node.settings.driver_file
    if not os.path.exists(file) and on_path(node.env, "nvidia-smi"):
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        code, version = node.children.output_of(words, node.env)
        if code == 0:
            file = f"{node.folder}/driver"
            put(file, f"Kernel Module  {version.partition(chr(10))[0]}\n")
    return file


def on_path(env: dict[str, str], program: str) -> bool:
    return any(os.access(f"{folder}/{program}", os.X_OK) for folder in env.get("PATH", os.defpath).split(":"))


def site_libraries(env: dict[str, str]) -> None:
    """What the profile mounts for its network comes ahead of the image's own (SLIPWAY_LIBRARIES)."""
    if env.get("SLIPWAY_LIBRARIES"):
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, [env["SLIPWAY_LIBRARIES"], env.get("LD_LIBRARY_PATH")]))


def older_driver(env: dict[str, str], driver_file: str) -> None:
    """NVIDIA's entrypoint, which does not run here, lets an image's CUDA run on an older driver: by a link that it
    makes in the image. The libraries behind that come first here instead, which takes no writable root."""
    wanted, here = env.get("CUDA_DRIVER_VERSION", ""), _version(driver_file)
    if not wanted or not here or int(here.partition(".")[0]) >= int(wanted.partition(".")[0]):
        return
    compat = f"{env.get('_CUDA_COMPAT_PATH') or '/usr/local/cuda/compat'}/lib.real"
    said = f"the driver, {here}, is older than the one of the image's CUDA, {wanted}"
    if not os.path.isdir(compat):
        say(f"warning: {said}, and the image has no {compat}")
        return
    env["LD_LIBRARY_PATH"] = ":".join(filter(None, [compat, env.get("LD_LIBRARY_PATH")]))
    say(f"{said}: {compat} comes first, which serves GPUs of data centres")


def _version(driver_file: str) -> str:
    import re

    try:
        with open(driver_file, encoding="utf-8", errors="replace") as f:
            found = re.search(r"[0-9]+\.[0-9.]+", f.read())
    except OSError:
        return ""
    return found[0] if found else ""


def check_secrets(node: Node) -> None:
    """Raises Ended where one that was declared is not there."""
    for name in node.settings.secrets:
        if not os.access(f"{node.settings.secrets_folder}/{name}", os.R_OK):
            raise refusal(f"the secret {name} is not in {node.settings.secrets_folder}")
