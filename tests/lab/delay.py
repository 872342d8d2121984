"""A slow path without netem, in the namespace that routes.

    python -m tests.lab.delay DEVICE MILLISECONDS [JITTER]

Makes a tun device, and gives every packet routed into it back to the kernel MILLISECONDS later, give or take
up to JITTER. Says "ready" when the device is up; the device goes when the process does.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000


def main(device: str, delay_seconds: float, jitter_seconds: float) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(
        ["ip", "link", "set", device, "addrgenmode", "none", "txqueuelen", "5000", "up"], check=True
    )
    # The same each time: a test that depends on luck should have the same luck twice.
    chance = random.Random(device)
    order = itertools.count()
    waiting: list[tuple[float, int, bytes]] = []
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            # A packet the kernel refuses is lost, as packets are.
            with contextlib.suppress(OSError):
                os.write(tun, heapq.heappop(waiting)[2])
        select.select([tun], [], [], max(0.0, waiting[0][0] - now) if waiting else None)
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(tun, 65536)
                late = delay_seconds + chance.uniform(-jitter_seconds, jitter_seconds)
                heapq.heappush(waiting, (time.monotonic() + late, next(order), packet))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.0)
