"""An instance never outlives its local cloud; tests/local/test_up.py kills one that runs."""

import os
import signal
import subprocess
import sys

import pytest

from local.cloud_run.instances import end_with


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_an_instance_whose_local_cloud_died_before_the_kernel_was_told_does_not_start() -> None:
    for parent, code in ((os.getpid(), 0), (os.getppid(), 1)):
        child = subprocess.run(["true"], preexec_fn=end_with(parent, signal.SIGKILL), timeout=10, check=False)
        assert child.returncode == code
