"""Notices when the handler's code changes."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from watchfiles import DefaultFilter, awatch


async def changes(sources: Sequence[Path]) -> AsyncIterator[None]:
    """Yield after each change of the code, changes within a moment together.

    A folder stands for every file in it. A file stands for itself and for the files with its suffix in its folder. The
    current folder is watched without its subfolders, because it may hold anything.
    """
    sources = [source.resolve() for source in sources]
    folders = {source if source.is_dir() else source.parent for source in sources}
    here = Path.cwd()
    usual = DefaultFilter()
    async for _ in awatch(
        *folders,
        watch_filter=lambda change, path: usual(change, path) and _is_code(Path(path), sources),
        debounce=400,
        recursive=folders.isdisjoint((here, *here.parents)),
    ):
        yield


def _is_code(path: Path, sources: Sequence[Path]) -> bool:
    return any(
        path == source
        or source in path.parents
        or (source.suffix != "" and path.suffix == source.suffix and source.parent in path.parents)
        for source in sources
    )
