"""What a worker needs of its experiment, as one zip file: made where the experiment lies, opened on a node that doesn't see it."""

import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

from pydantic import Field

from harness.config import ModelConfig
from harness.data.sources import fingerprint, local_paths
from harness.errors import HarnessError, LaunchError, StoreError
from harness.eval_config import EvalConfig, SourceConfig
from harness.grid import CellSpec
from harness.models.load import FINGERPRINTED, model_fingerprint
from harness.records import Record
from harness.resources import BAD_ZIP, EMBEDDED_PREFIX, file_digest, is_file
from harness.store import CellFolder, ExperimentFolder, read_record

MANIFEST = "travel.json"
ELSEWHERE = "elsewhere"
MAX_FILES = 10_000
MAX_BYTES = 4 << 30
"""Of one bundle, unpacked."""
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
NAME = re.compile(r"[^/\\\0:]{1,250}(?:/[^/\\\0:]{1,250}){0,40}")

Kind = Literal["data", "model", "file"]


class Expected(Record):
    """Something that a cell names by a path of which a node must have the same."""

    kind: Kind
    path: str
    digest: str


class Manifest(Record):
    """What a bundle says of itself."""

    experiment: Annotated[str, Field(pattern=r"^mlruns/harness/[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The experiment's folder, below the working folder."""
    expected: tuple[Expected, ...] = ()


class Inputs:
    """The files that cells name, gathered under the names that they have on a node."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.expected: dict[str, Expected] = {}
        self._moved: dict[Path, str] = {}

    def of(self, spec: CellSpec) -> CellSpec:
        """Takes what a cell names; gives the cell as the node is to read it, which differs in where its files lie alone."""
        config = spec.cell.config
        data = config.data
        parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
        moved = {name: part and tuple(map(self._source, part)) for name, part in parts.items()}
        template = config.template
        if is_file(Path(template.name)):
            template = template.model_copy(update={"name": self._movable(Path(template.name))})
        if not config.model.name.startswith(EMBEDDED_PREFIX) and Path(config.model.name).expanduser().is_dir():
            folder = Path(config.model.name).expanduser()
            self._at_its_place("model", config.model.name, [f for p in FINGERPRINTED for f in folder.glob(p)])
        reference = spec.cell.reference
        if reference is not None and reference.predictions is not None:
            self._at_its_place("file", reference.predictions, [Path(reference.predictions)])
        for options in spec.evals:
            self._asked(options)
        changed = config.model_copy(update={"data": data.model_copy(update=moved), "template": template})
        return spec.model_copy(update={"cell": spec.cell.model_copy(update={"config": changed})})

    def _source(self, source: SourceConfig) -> SourceConfig:
        """A cell's id holds what is in its files, not where they lie: a single one may lie elsewhere."""
        if source.path.startswith(EMBEDDED_PREFIX) or (paths := local_paths(source)) is None:
            return source
        path = Path(source.path).expanduser()
        if is_file(path):
            return source.model_copy(update={"path": self._movable(path)})
        self._at_its_place("data", source.path, paths)
        return source

    def _movable(self, path: Path) -> str:
        if _lies_below(str(path)):
            self.files[str(PurePosixPath(path))] = path
            return str(path)
        name = self._moved.setdefault(path, f"{ELSEWHERE}/{len(self._moved)}/{path.name}")
        self.files[name] = path
        return name

    def _asked(self, options: EvalConfig) -> None:
        """What a suite asks is part of its digest with the path that the file names, so it stays where it is."""
        if options.data is not None and not options.data.path.startswith(EMBEDDED_PREFIX):
            paths = local_paths(options.data)
            if paths is not None:
                self._at_its_place("data", options.data.path, paths)
        if options.include_path is not None:
            folder = Path(options.include_path)
            self._at_its_place("file", options.include_path, [f for f in folder.rglob("*") if f.is_file()])
        for path in (Path("evals") / f"{options.suite}.py", *Path("evals").glob("_*.py")):
            if path.is_file():
                self.files[str(path)] = path

    def _at_its_place(self, kind: Kind, named: str, paths: Iterable[Path]) -> None:
        if _lies_below(named):
            self.files |= {str(PurePosixPath(path)): path for path in paths}
        else:
            self.expected[named] = Expected(kind=kind, path=named, digest=_content(kind, named))


def _lies_below(named: str) -> bool:
    """Whether a path is relative and stays below the working folder."""
    path = PurePosixPath(named)
    return not (path.is_absolute() or ".." in path.parts or named.startswith("~"))


def _content(kind: Kind, named: str) -> str:
    """Digest of what lies at a path."""
    if kind == "data":
        return fingerprint(SourceConfig(path=named))
    if kind == "model":
        return model_fingerprint(ModelConfig(name=named))
    return file_digest(Path(named)) if Path(named).is_file() else ""


def make_bundle(folder: ExperimentFolder, cells: Sequence[CellFolder], to: Path) -> str:
    """Writes what cells and references need, under the names that it has below the working folder; returns its digest.

    Raises: LaunchError: it is too much to travel.
    """
    inputs = Inputs()
    texts: dict[str, str] = {}
    root = folder.path.relative_to(Path.cwd())
    records = [*(folder.path / "data").glob("*.json"), *(cell.check for cell in cells if cell.check.exists())]
    inputs.files |= {str(path.relative_to(Path.cwd())): path for path in records}
    for cell in cells:
        spec = inputs.of(read_record(cell.spec, CellSpec))
        texts[str(cell.spec.relative_to(Path.cwd()))] = spec.model_dump_json()
    manifest = Manifest(experiment=str(root), expected=tuple(inputs.expected.values()))
    texts[MANIFEST] = manifest.model_dump_json()
    _check_size(inputs.files)
    _write(inputs.files, texts, to)
    return file_digest(to)


def _check_size(files: Mapping[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) <= MAX_BYTES and len(sizes) < MAX_FILES // 2:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise LaunchError(
        f"the nodes don't share this folder, and what the cells need is too much to send them ({len(sizes)} files, "
        f"{sum(sizes.values()) / (1 << 30):.1f} GiB, {MAX_BYTES >> 30} at most; the largest is {largest}): put it on a file system that "
        "all nodes see under the same absolute path, or on the Hub, and name it so"
    )


def _write(files: Mapping[str, Path], texts: Mapping[str, str], to: Path) -> None:
    """The same files give the same zip, byte for byte."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted({*files, *texts}):
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                if name in texts:
                    member.write(texts[name].encode())
                else:
                    with files[name].open("rb") as file:
                        shutil.copyfileobj(file, member, 1 << 20)


def open_bundle(archive: Path, digest: str, to: Path) -> Manifest:
    """Lays the files of a bundle into a new folder.

    Raises: StoreError: it isn't the one that was sent, or holds what no bundle does.
    """
    if file_digest(archive) != digest:
        raise StoreError("the bundle at the tracking server is not the one that `harness run` sent; start it again")
    try:
        with zipfile.ZipFile(archive) as content:
            for member in list(_checked(content.infolist())):
                path = to / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                # "x": nothing is ever written over, whatever the file system takes for the same name.
                with content.open(member) as packed, path.open("xb") as file:
                    shutil.copyfileobj(_Bounded(packed, member.file_size), file, 1 << 20)
    except BAD_ZIP as error:
        raise StoreError(f"the bundle can't be unpacked: {error}") from error
    return read_record(to / MANIFEST, Manifest)


class _Bounded:
    """A stream that gives as many bytes as its member says, whatever the compressed data hold."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or what is left."""
        wanted = self._left if size < 0 else min(size, self._left)
        found = self._stream.read(wanted)
        self._left -= len(found)
        return found


def _checked(members: Sequence[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """The members, none of which leads out of the folder or is anything but a file."""
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > 2 * MAX_BYTES:
        raise StoreError(f"the bundle is too large: {len(members)} files")
    for member in members:
        name, mode = member.filename, member.external_attr >> 16
        is_plain = NAME.fullmatch(name) and not {".", ".."} & set(name.split("/")) and (not mode or stat.S_IFMT(mode) in (0, stat.S_IFREG))  # fmt: skip
        if not is_plain:
            raise StoreError(f"the bundle holds {name[:200]!r}, which is no plain file below its folder")
        yield member


def missing_here(manifest: Manifest) -> str:
    """The first thing that cells name and this node doesn't have in the same form; empty where it has all of it."""
    for item in manifest.expected:
        try:
            is_same = _content(item.kind, item.path) == item.digest
        except (HarnessError, OSError):
            is_same = False
        if not is_same:
            return item.path
    return ""
