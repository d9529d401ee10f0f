"""CounterFact and zsRE as ROME published them (Meng et al. 2022, arXiv 2202.05262).

They are downloaded once, kept in `cache_home()/data`, and checked against the published SHA-256, if there is one, each
time they are loaded.
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
    """A data set on the web. sha256: of the published file; None if none was published."""

    url: str
    sha256: str | None

    @property
    def file(self) -> Path:
        """The path of the downloaded file."""
        return cache_home() / "data" / self.url.rsplit("/", 1)[-1]


PUBLISHED = {
    "counterfact": Published(  # 45,108,470 bytes
        "https://rome.baulab.info/data/dsets/counterfact.json",
        "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
    ),
    "zsre": Published("https://rome.baulab.info/data/dsets/zsre_mend_eval.json", None),
}


def download(name: str, published: Published) -> None:
    """Download the file; it gets its name only when it is complete and verified. Raises DatasetError."""
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
    """Check that a download without a published hash is a list of records at least, and not a login page.

    A processor for pooch: returns the path. Deletes the file and raises DatasetError if it is not.
    """
    file = Path(path)
    try:
        read_records(file, read_bytes(file))
    except DatasetError as error:
        file.unlink()
        raise DatasetError("what came is no list of records") from error
    return path
