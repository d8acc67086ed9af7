"""native/README.md's example, as it is shown there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT

README = (ROOT / "native" / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc")
def test_the_example_runs(tmp_path: Path) -> None:
    """The command compiles examples/run.c without a warning, over bnn.h alone, and prints what is said."""
    command, printed = re.findall(r"```\n(cc .*?)\n```\n\n```\n(.*?)```", README, re.DOTALL)[0]
    assert "-std=c11 " in command
    assert "-Wall -Wextra -Werror" in command
    for name in ("native", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == printed
    example = (ROOT / "examples" / "run.c").read_text(encoding="utf-8")
    assert re.findall(r"#include (.*)", example) == ["<stdio.h>", '"bnn.h"']
