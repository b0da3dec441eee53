"""The digest of the code separates the cache entries of two releases."""

from pathlib import Path

from coherent_cache import code_digest


def package(folder: Path, **files: str) -> Path:
    path = folder / "package"
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / f"{name}.py").write_text(text, encoding="utf-8")
    return path


def test_digest_depends_on_the_contents_and_names_of_the_files_only(tmp_path: Path) -> None:
    digest = code_digest(package(tmp_path / "one", a="A = 1", b=""))
    assert code_digest(package(tmp_path / "elsewhere", a="A = 1", b="")) == digest
    others = (
        code_digest(package(tmp_path / "changed", a="A = 2", b="")),
        code_digest(package(tmp_path / "moved", a="", b="A = 1")),
        code_digest(package(tmp_path / "renamed", a="A = 1", c="")),
    )
    assert len({digest, *others}) == 4
