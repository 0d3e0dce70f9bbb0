"""A handle on the fakes of services: a subprocess with named instances on free ports."""

import subprocess
import sys
from typing import Self

from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT


class FakeServices(FakeProvider):
    """As `FakeProvider`, but starts `loadtest.fake_services`, of which each instance serves all three kinds."""

    def __enter__(self) -> Self:
        listen = [part for name in self._names for part in ("--listen", f"{name}=0")]
        command = [sys.executable, "-m", "loadtest.fake_services", *listen]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            self._ports = dict(self._read_ready_line() for _ in self._names)
        except BaseException:
            self.stop()
            raise
        return self
