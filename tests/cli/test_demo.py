"""`nse demo`."""

from __future__ import annotations

from nse_plugin.cli import main


def test_a_demo_that_could_write_nothing(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 1
    assert capsys.readouterr() == (
        "",
        f"nse: --out '{tmp_path}/file/demo' cannot be used: {tmp_path}/file is a file; name a folder.\n",
    )
