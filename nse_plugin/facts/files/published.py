"""CounterFact and zsRE as ROME published them (Meng et al. 2022, arXiv 2202.05262).

They are downloaded once, kept in `cache_home()/data`, and compared with the published SHA-256 each time.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from nse_plugin.facts.files.records import DatasetError, read_bytes, read_records
from nse_plugin.support.files import cache_home, written_whole
from nse_plugin.support.progress import bar

log = logging.getLogger(__name__)
_CHUNK = 1 << 18  # bytes
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
    try:
        with written_whole(published.file) as temporary:
            _fetch(name, published.url, temporary)
            _check(read_bytes(temporary), published)
    except (OSError, http.client.HTTPException, DatasetError) as error:
        raise DatasetError(
            f"{name} cannot be downloaded from {published.url} ({error}): try again when online, or put the file at "
            f"{published.file} by hand."
        ) from error
    log.info("%s downloaded into %s.", name, published.file)


def _check(data: bytes, published: Published) -> None:
    """Where no hash was published, what came must at least be records, not a login page."""
    if published.sha256 is None:
        try:
            read_records(published.file, data)
        except DatasetError as error:
            raise DatasetError("what came is no list of records") from error
    elif (sha256 := hashlib.sha256(data).hexdigest()) != published.sha256:
        raise DatasetError(f"what came has the SHA-256 {sha256}, and the published file has {published.sha256}")


def _fetch(name: str, url: str, file: Path) -> None:
    with urllib.request.urlopen(url, timeout=_SILENCE) as response, file.open("wb") as stream:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with bar(f"downloading {name}, bytes", total) as advance:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                advance(len(chunk))
        received = stream.tell()
    if received != (total or received):  # urllib takes a broken connection for the end
        raise OSError(f"the connection broke after {received} of {total} bytes")
