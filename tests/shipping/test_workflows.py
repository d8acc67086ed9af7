"""Workflows run what was looked at: actions by commit, packages by hash, with no rights but those needed."""

import re
from typing import Any

import pytest
import yaml
from support.paths import ROOT
from support.shipping import SETTINGS

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RIGHTS = {
    "release": {"contents": "write"},
    "publish": {"id-token": "write"},
}  # what a job needs beside reading


def workflow(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_actions_are_pinned_to_commits(name: str) -> None:
    """With the version beside it, which is what Dependabot reads."""
    used = re.findall(r"uses: *(.*)", (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+|\./\.github/workflows/\w+\.yml", action)


def test_an_action_has_one_commit() -> None:
    """The same in every workflow."""
    texts = "".join(path.read_text(encoding="utf-8") for path in FILES)
    used = set(re.findall(r"uses: *(\S+)@(\S+)", texts))
    assert len({action for action, _ in used}) == len(used)


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_rights_are_least(name: str) -> None:
    """A workflow reads; two jobs of a release may do one thing more; no checkout keeps its token."""
    whole = workflow(name)
    assert whole["permissions"] == {"contents": "read"}
    for job_name, job in whole["jobs"].items():
        assert job.get("permissions") == RIGHTS.get(job_name)
        for step in job.get("steps", ()):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_a_release_is_built_and_checked_with_locked_tools() -> None:
    """In manylinux_2_28, after the tests, and with its bill of materials."""
    jobs = workflow("wheels.yml")["jobs"]
    for job in (jobs["wheel"], jobs["sdist"]):
        assert "pip install --require-hashes -r .ci/locks/release.txt" in commands(job)
    for command in ("cibuildwheel", ".ci/check-wheel dist/*.whl", ".ci/sbom dist/*.whl"):
        assert command in commands(jobs["wheel"])
    for job in (jobs["release"], jobs["publish"]):
        assert set(job["needs"]) == {"test", "wheel", "sdist"}
    settings = SETTINGS["tool"]["cibuildwheel"]
    linux = settings["linux"]
    assert {linux[f"manylinux-{machine}-image"] for machine in linux["archs"]} == {"manylinux_2_28"}
    assert "--require-hashes -r {project}/.ci/locks/build.txt" in settings["before-build"]


def test_the_tests_run_with_the_lock_once() -> None:
    """Each file by its hash, and nothing that the lock does not hold."""
    run = commands(workflow("tests.yml")["jobs"]["locked"])
    assert "pip install --require-hashes -r .ci/locks/dev.txt" in run
    assert "pip install --no-deps --no-build-isolation --editable ." in run
    assert "pytest" in run
