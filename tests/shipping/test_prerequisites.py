"""What a build needs and is not there is named, with the package that brings it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.bnn_files import small
from support.paths import ROOT

from bnn.export import export

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs a shell")
CMAKE = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, ("cmake", "make", "cc", "c++"))),
    reason="needs Linux, cmake, make and compilers that can be hidden",
)
SYSTEMS = {
    "ID=debian": ("build-essential", "python3-dev"),
    "ID=mint\nID_LIKE='ubuntu debian'": ("build-essential", "python3-dev"),
    "ID=fedora": ("dnf install gcc gcc-c++", "python3-devel"),
    'ID="rocky"\nID_LIKE="rhel centos fedora"': ("dnf install gcc gcc-c++", "python3-devel"),
    "ID=alpine": ("apk add build-base", "python3-dev"),
    "ID=arch": ("pacman -S base-devel", "pacman -S python"),
    "ID=opensuse-leap": ("zypper install gcc gcc-c++", "python3-devel"),
    "ID=other": ("build-essential", "python3-dev"),
    "Darwin": ("xcode-select --install", "python.org"),
    "Windows": ("BuildTools", "python.org"),
}


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command without $CC, $CXX and $MAKEFLAGS, with `path` as its $PATH."""
    hidden = ("CC", "CXX", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def programs(folder: Path, *names: str) -> Path:
    """A folder with these programs of this machine, and no others."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def configure(tmp_path: Path, path: Path, *options: str) -> str:
    """What CMake says as it fails to configure the project."""
    cmake = str(shutil.which("cmake"))
    python = f"-DPython_EXECUTABLE={sys.executable}"
    done = run(
        cmake, "-G", "Unix Makefiles", "-S", ROOT, "-B", "build", python, *options, cwd=tmp_path, path=path
    )
    assert done.returncode != 0
    return done.stderr


@CMAKE
@pytest.mark.parametrize(("there", "said"), [((), "no C compiler"), (("cc", "as", "ld"), "no C++ compiler")])
def test_a_missing_compiler_is_named(tmp_path: Path, there: tuple[str, ...], said: str) -> None:
    """Without a C compiler, and without a C++ compiler beside it, CMake says what to install."""
    (tmp_path / "os-release").write_text("ID=debian\n")
    path = programs(tmp_path / "bin", "make", "sh", "uname", *there)
    error = configure(tmp_path, path, f"-DOS_RELEASE={tmp_path / 'os-release'}")
    assert f"There is {said} here that works." in error
    assert "Debian, Ubuntu: apt-get install build-essential" in error


@CMAKE
@pytest.mark.parametrize(("name", "old", "standard"), [("cc", "gnu90", "C11"), ("c++", "gnu++14", "C++17")])
def test_a_compiler_that_is_too_old_is_named(tmp_path: Path, name: str, old: str, standard: str) -> None:
    """One that does not know the standard we write in is named, with the standard."""
    flag = standard.removeprefix("C++").removeprefix("C")
    real = {n: shutil.which(n) for n in ("cc", "c++")}
    path = programs(tmp_path / "bin", "make", "sh", "uname", "as", "ld", *{"cc", "c++"} - {name})
    script(path / name, f'case " $* " in *-std=*{flag}*) exit 1;; esac\nexec {real[name]} -std={old} "$@"')
    assert f"compiler is too old for {standard}: {path / name}" in configure(tmp_path, path)


@CMAKE
def test_missing_headers_of_python_are_named(tmp_path: Path) -> None:
    """Without Python.h, CMake says what to install."""
    (tmp_path / "os-release").write_text("ID=fedora\n")
    path = programs(tmp_path / "bin", "make", "sh", "uname", "cc", "c++", "as", "ld")
    options = (f"-DOS_RELEASE={tmp_path / 'os-release'}", f"-DPython_INCLUDE_DIR={tmp_path / 'include'}")
    error = configure(tmp_path, path, *options)
    assert f"Python's headers are not here, Python.h of {sys.executable}" in error
    assert "dnf install python3-devel" in error


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_own_packages(tmp_path: Path, system: str) -> None:
    """The hint is that of the system at hand, whichever of the two is missing."""
    host, _, release = ("Linux", "", system) if "=" in system else (system, "", "")
    (tmp_path / "os-release").write_text(f"{release}\n")
    (tmp_path / "ask.cmake").write_text(
        f'set(CMAKE_HOST_SYSTEM_NAME {host})\nset(OS_RELEASE "{(tmp_path / "os-release").as_posix()}")\n'
        f'include("{(ROOT / "cmake" / "prerequisites.cmake").as_posix()}")\n'
        "foreach(which COMPILERS HEADERS)\n"
        "  how_to_install(${which} how)\n  message(STATUS ${how})\nendforeach()\n"
    )
    done = run("cmake", "-P", "ask.cmake", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line, package in zip(lines, SYSTEMS[system], strict=True):
        assert package in line


def checkout(tmp_path: Path) -> Path:
    """As much of the repository as `make` reads before pip runs."""
    folder = tmp_path / "checkout"
    (folder / ".ci" / "locks").mkdir(parents=True)
    for name in ("Makefile", ".ci/venv", ".ci/locks/dev.txt"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("pyproject.toml", "CMakeLists.txt"):
        (folder / name).touch()
    return folder


@POSIX
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "there is no {python}: install Python 3.11 or newer"),
        ("exit 3", "{python} does not run"),
        (
            'case "$2" in *print*) echo 3.10;; *) exit 1;; esac',
            "{python} is Python 3.10, and 3.11 or newer is needed",
        ),
        (
            'case "$2" in *print*) echo 3.11;; *ensurepip*) exit 1;; esac',
            "{python} cannot make virtual environments (Debian, Ubuntu: apt-get install python3.11-venv)",
        ),
        (
            'case "$1" in -m) mkdir -p .venv/bin; exit 1;; esac\necho 3.11',
            "{python} could not make .venv",
        ),
    ],
)
def test_make_names_what_python_lacks(tmp_path: Path, python: str | None, said: str) -> None:
    """No Python, an old one, one without venv: one line, and no half of a .venv."""
    folder, interpreter = checkout(tmp_path), tmp_path / "python"
    if python is not None:
        script(interpreter, python)
    done = run("make", "demo", f"PYTHON={interpreter}", cwd=folder)
    first, last = done.stderr.splitlines()
    assert done.returncode != 0
    assert first.startswith(f"make: {said.format(python=interpreter)}")
    assert "Error 1" in last
    assert not (folder / ".venv").exists()


@POSIX
def test_half_a_venv_is_made_anew(tmp_path: Path) -> None:
    """One whose making was interrupted has a Python, but no pip: it is not taken for whole."""
    folder, interpreter = checkout(tmp_path), tmp_path / "python"
    (folder / ".venv" / "bin").mkdir(parents=True)
    script(folder / ".venv" / "bin" / "python", "exit 1")
    script(interpreter, 'case "$1" in -m) echo "$*" > made;; *) echo 3.11;; esac')
    assert run(".ci/venv", interpreter, cwd=folder).returncode == 0
    assert (folder / "made").read_text() == "-m venv --clear .venv\n"
    (folder / "made").unlink()
    script(folder / ".venv" / "bin" / "python", "echo pip 1.0")
    assert run(".ci/venv", interpreter, cwd=folder).returncode == 0
    assert not (folder / "made").exists()


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("make") is None, reason="needs Linux and make")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "there is no gcc: name another compiler (make CC=clang), or install it (Debian, Ubuntu: "),
        (("CROSS=arm-none-eabi-",), "apt-get install gcc-arm-none-eabi)"),
    ],
)
def test_an_exported_makefile_names_its_compiler(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """`make` in an exported folder says which compiler is missing, and what brings it."""
    export(small(), "c", tmp_path / "c")
    path = programs(tmp_path / "bin", "make", "sh", "mkdir", "rm")
    done = run("make", *options, cwd=tmp_path / "c", path=path)
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[0]
    assert run("make", "clean", cwd=tmp_path / "c", path=path).returncode == 0
