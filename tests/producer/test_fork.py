"""A process that forks: parent, child and grandchild create tasks, whatever another thread is doing at that moment."""

import subprocess
import sys
import time

import pytest

from tests.producer.service import Service

FORKING = """
import os, signal, sys, threading, time
import order_tasks
from order_tasks import default

building = threading.Event()

class SlowlyBuilt(default.OrderTasks):
    def __init__(self, config):
        building.set()
        time.sleep(0.3)
        super().__init__(config)

default.OrderTasks = SlowlyBuilt

def create(order_id):
    order_tasks.create_order_task(order_id, "send_confirmation", "ada@example.com")

shared = order_tasks.OrderTasks(order_tasks.Config.from_environment())

def create_all_the_time(thread):
    time.sleep(thread * 0.08)  # so that at no moment all of their calls have ended
    for number in range(1000):
        shared.create_order_task(f"ORD-{thread}-{number}", "send_confirmation", "ada@example.com")

def fork(generation):
    begin = time.monotonic()
    process = os.fork()
    assert time.monotonic() - begin < 5
    if process:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        create("ORD-parent-%d" % generation)
        return
    signal.alarm(20)  # kills a child that hangs
    create("ORD-child-%d" % generation)
    if generation == 1:
        fork(2)
    os._exit(0)

first = threading.Thread(target=create, args=["ORD-thread"])
first.start()
BEFORE_FORK
fork(1)
first.join()
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "before_fork",
    [
        "building.wait(20)",  # the client is being built
        "time.sleep(0.5)",  # the first call is in flight
        "first.join()",  # a channel is open
        "for n in range(4): threading.Thread(target=create_all_the_time, args=[n], daemon=True).start()\ntime.sleep(1)",
    ],
)
def test_each_process_creates_its_tasks(service: Service, before_fork: str) -> None:
    service.before["CreateTask"] = lambda: time.sleep(0.3)
    script = FORKING.replace("BEFORE_FORK", before_fork)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]  # of forking with threads
    forking = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (forking.returncode, forking.stderr) == (0, "")
    created = {name.partition("-send_confirmation-")[2] for name in service.names}
    assert created >= {"ORD-thread", "ORD-child-1", "ORD-parent-1", "ORD-child-2", "ORD-parent-2"}
