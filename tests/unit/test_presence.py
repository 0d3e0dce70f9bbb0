"""What a worker tells by the age of its file, see extproc.presence."""

import asyncio
import contextlib
import shutil
from pathlib import Path

from extproc.admission import Admission
from extproc.presence import Presence, is_present


async def test_a_folder_that_is_away_for_a_while_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    socket = folder / "worker-0.sock"
    presence = Presence(socket, Admission())
    running = asyncio.ensure_future(presence.run())
    shutil.rmtree(folder)
    await asyncio.sleep(0.4)
    assert not is_present(socket)
    folder.mkdir()
    async with asyncio.timeout(30):
        while not is_present(socket):
            await asyncio.sleep(0.05)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
