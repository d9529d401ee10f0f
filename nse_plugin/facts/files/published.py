"""CounterFact and zsRE as ROME published them (Meng et al. 2022, arXiv 2202.05262).

They are downloaded once, kept in `cache_home()/data`, and compared with the published SHA-256 each time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from nse_plugin.facts.files.records import DatasetError, read_bytes, read_records
from nse_plugin.support.files import cache_home
from nse_plugin.support.progress import bar

log = logging.getLogger(__name__)
_SILENCE = 30.0  # seconds without a byte after which a download is given up


@dataclass(frozen=True)
class Published:
    """A data set on the web. sha256: of the published file; None where none was published."""

    url: str
    sha256: str | None

    @property
    def file(self) -> Path:
        """Where it is kept once downloaded."""
        return cache_home() / "data" / self.url.rsplit("/", 1)[-1]


PUBLISHED = {
    "counterfact": Published(  # 45,108,470 bytes
        "https://rome.baulab.info/data/dsets/counterfact.json",
        "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
    ),
    "zsre": Published("https://rome.baulab.info/data/dsets/zsre_mend_eval.json", None),
}


def download(name: str, published: Published) -> None:
    """Fetch the file; it takes its name only when it is whole and what was published. Raises DatasetError."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    file, fetch = published.file, pooch.HTTPDownloader(timeout=_SILENCE)
    known_hash, check = (None, _check) if published.sha256 is None else (f"sha256:{published.sha256}", None)
    try:
        with bar(f"downloading {name}", None):
            pooch.retrieve(published.url, known_hash, file.name, file.parent, processor=check, downloader=fetch)
    except (OSError, ValueError, DatasetError) as error:
        raise DatasetError(
            f"{name} cannot be downloaded from {published.url} ({error}): try again when online, or put the file at "
            f"{file} by hand."
        ) from error
    log.info("%s downloaded into %s.", name, file)


def _check(path: str, action: str, _: object) -> str:
    """Where no hash was published, what came must at least be records, not a login page. As pooch calls a processor."""
    file = Path(path)
    try:
        read_records(file, read_bytes(file))
    except DatasetError as error:
        file.unlink()
        raise DatasetError("what came is no list of records") from error
    return path
