"""MkDocs hooks: the README is the home page, and measured tables are pages, without a second copy of either."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
BORROWED = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
HOME_LINKS = (("](docs/", "]("), ("](CONTRIBUTING.md", "](contributing.md"), ("](CHANGELOG.md", "](changelog.md"))


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the pages that live outside docs/, and the example experiments that they link to."""
    for name, source in BORROWED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for folder, pattern in (("benchmarks", "*.md"), ("experiments", "*.yaml")):
        for path in sorted((ROOT / folder).glob(pattern)):
            files.append(File.generated(config, f"{folder}/{path.name}", content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they stand in the repository, turned into links between pages."""
    if page.file.src_uri in BORROWED:
        for before, after in HOME_LINKS:
            markdown = markdown.replace(before, after)
        return markdown
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\(\.\./(?=benchmarks/|experiments/)", "](", markdown.replace("](../README.md", "](index.md"))
