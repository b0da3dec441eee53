"""The drill: in a copy of the repository, a user makes it their own with the commands for this.

After each command, `make check` passes in the copy. So do the tests of the contract that tell
whether every feature is complete, and the tests of each feature that the command has changed. Who
may not call a route is asked at the end, for the service that all commands have left.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from app.infra.database.schema_version import read_revisions
from dev.features import features_in_order
from dev.planted import KEPT
from dev.servers import embedded_servers
from tests.dev.repository import PROJECT, Copy, commit, git

CONTRACT = [f"tests/contract/test_{name}.py" for name in ("access", "documents", "openapi")]
QUICK = "not (test_each_caller_gets_the_status_of_its_row and (anonymous or deleted or other))"
# These run for each new feature.
NEW = [f"tests/contract/test_{name}.py" for name in ("cached_routes", "plans")]
QUICK_NEW = "({quick}) and ({name} or not (test_cached_routes or test_plans))"
TESTS = [f"tests/{name}" for name in ("contract", "faults", "features", "infra")]
BEFORE = read_revisions().head  # the newest migration before the drill

REMOVABLE = [name for name in reversed(features_in_order(PROJECT)) if name not in KEPT]
# The board comes last, because it builds on no feature.
REMOVABLE.sort(key=lambda name: name == "board")


class Drill(Copy):
    """A copy of the repository that a user makes their own."""

    def do(self, *arguments: str, new: str | None = None) -> None:
        """Run a command of the Makefile, check the whole copy, and commit."""
        self.run("make", *arguments)
        self.run("make", "check")
        selected = QUICK_NEW.format(quick=QUICK, name=new) if new else QUICK
        tests = [*CONTRACT, *(NEW if new else []), *self._tests_of_changed_features()]
        self.pytest("-k", selected, *tests)
        commit(self.folder)

    def repeat_migrations(self) -> None:
        """Undo the migrations of the drill in the database of the copy, and apply them again."""
        with embedded_servers(self.folder / ".data", durable=False, say=lambda _: None) as servers:
            urls = {"DATABASE_URL": servers.database_url, "VALKEY_URL": servers.valkey_url}
            for command in (("downgrade", BEFORE), ("upgrade", "head"), ("check",)):
                self.run(sys.executable, "-m", "alembic", *command, variables=urls)

    def _tests_of_changed_features(self) -> list[str]:
        git("add", "-A", cwd=self.folder)
        changed = ["diff", "--cached", "--name-only", "--", "app/features", "tests/features"]
        names = {Path(path).parts[2] for path in git(*changed, cwd=self.folder).splitlines()}
        folders = [f"tests/features/{name}" for name in sorted(names)]
        return [folder for folder in folders if (self.folder / folder).exists()]

    def mentions(self, word: str, *folders: str) -> str:
        """Return the lines in these folders that contain a whole word."""
        command = ["git", "grep", "-nwF", word, "--", *folders]
        return subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, encoding="utf-8", check=False
        ).stdout


@pytest.fixture
def copy(tmp_path: Path) -> Drill:
    return Drill(tmp_path / "copy")


def test_project_is_renamed_and_gets_resources_that_can_be_removed_again(copy: Drill) -> None:
    copy.do("rename", "name=drill-desk")
    resources = []
    for source, name, kind in (("drafts", "ledgers", "private"), ("posts", "recipes", "public")):
        if source in REMOVABLE:
            copy.do("resource", f"name={name}", f"kind={kind}", new=name)
            assert copy.mentions(name, "app/api.py")
            resources.append(name)
    copy.pytest(*CONTRACT)
    copy.repeat_migrations()
    for name in resources:
        copy.run("make", "remove", f"name={name}")
        commit(copy.folder)
        assert not copy.mentions(name, ".", ":!migrations", ":!tests/dev")
    copy.run("make", "check")


def test_features_are_removed_one_after_the_other(copy: Drill) -> None:
    for name in REMOVABLE:
        copy.do("remove", f"name={name}")
        assert not (copy.folder / "app" / "features" / name).exists()
        assert name not in features_in_order(copy.folder)
        assert not copy.mentions(f"/v1/{name}", "app", "dev/demo", *TESTS)
    copy.pytest(*CONTRACT)
    copy.repeat_migrations()
    copy.pytest("--collect-only", "tests")
    assert set(features_in_order(copy.folder)) == KEPT.keys()


@pytest.mark.skipif("posts" not in REMOVABLE, reason="the feature posts was removed")
def test_removal_is_refused_or_undone_as_a_whole(copy: Drill) -> None:
    children = [name for name in REMOVABLE if name in {"comments", "drafts"}]
    if children:
        refusal = copy.run("make", "remove", "name=posts", fails=True)
        assert "`posts` cannot be removed yet, because other features build on it" in refusal
        assert all(f"make remove name={child}" in refusal for child in children)
    (copy.folder / "README.md").write_text("Mine", encoding="utf-8")
    assert "not committed" in copy.run("make", "remove", "name=board", fails=True)
    git("checkout", ".", cwd=copy.folder)
    nobody = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "VALKEY_URL": "redis://127.0.0.1:1"}
    name = (children or ["posts"])[-1]  # nothing else imports drafts
    failure = copy.run("make", "remove", f"name={name}", fails=True, variables=nobody)
    assert "The files are as they were before." in failure
    assert git("status", "--porcelain", cwd=copy.folder) == ""
