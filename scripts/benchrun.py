"""Processes of one benchmark run: started, waited for, ended in reverse order, with what each used."""
import datetime
import mmap
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

START_TIME = 20
END_TIME = 20
SAMPLE = 0.01


def keep_memory(size):
    """Keeps so much free memory with this machine for as long as the result lives.

    A machine that is itself a guest gives large free blocks of memory back to its host, and pays when they are touched again: then a run
    costs as much as chance has it. So the memory is touched once, and all of it freed but for one page of each 128 KiB; what is free
    between those pages is too small to be given back, and is what files on tmpfs are made of next. At most half of what is free."""
    page, block, populate = mmap.PAGESIZE, 128 << 10, 23
    with open("/proc/meminfo", encoding="ascii") as lines:
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    size = min(size, free // 2) // block * block
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(populate)
    for at in range(0, size, block):
        memory.madvise(mmap.MADV_DONTNEED, at + page, block - page)
    return memory


def wipe(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)


def file_of(path, size):
    """A sparse file of that size; gives its path."""
    with open(path, "wb") as out:
        out.truncate(size)
    return path


def nbdkit(run, part, args):
    """Starts nbdkit; gives its URI."""
    port = run.free_port()
    run.start(part, ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), *args])
    run.wait_port(port)
    return f"nbd://127.0.0.1:{port}"


def requests_of(log):
    """What nbdkit's log filter wrote of requests: (seconds, what, bytes). An answer has dots before its name, and no bytes."""
    found = []
    with open(log, encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if len(words) > 4 and words[2].startswith("connection=") and words[4].startswith("id="):
                at = datetime.datetime.fromisoformat(f"{words[0]} {words[1]}").timestamp()
                count = next((int(word[6:], 16) for word in words if word.startswith("count=")), 0)
                found.append((at, words[3], count))
    return found


def high_water(pid):
    """Peak resident bytes of a process that has become its own program, else None."""
    try:
        if os.readlink(f"/proc/{pid}/exe") == os.readlink("/proc/self/exe"):
            return None
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
    except OSError:
        return None


class Run:
    """A context: what was started in it is ended at its end, and the result of `client` is then complete."""

    used_ports = set()

    def __init__(self, log):
        self.log, self.live, self.peak, self.result = log, [], {}, {"parts": {}}
        self.stop = threading.Event()
        self.sampler = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        self.sampler.start()
        return self

    def __exit__(self, *_):
        while self.live:
            process, part = self.live[-1]
            os.kill(process.pid, signal.SIGTERM)
            self.reap(process, part, END_TIME)
        self.stop.set()
        self.sampler.join()
        self.result["cpu"] = sum(part["cpu"] for part in self.result["parts"].values())

    def free_port(self):
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            if port not in self.used_ports:
                self.used_ports.add(port)
                return port

    def start(self, part, argv, folder=None):
        # The kernel ends it should this program die.
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdin=subprocess.DEVNULL, stdout=self.log,
                                   stderr=self.log, cwd=folder)
        self.live.append((process, part))
        return process

    def wait_port(self, port):
        """Waits until somebody listens; without connecting, which would count as work."""
        process, part = self.live[-1]
        want, end = f":{port:04X}", time.monotonic() + START_TIME
        while time.monotonic() < end:
            for table in ("/proc/net/tcp", "/proc/net/tcp6"):
                with open(table, encoding="ascii") as lines:
                    if any(words[3] == "0A" and words[1].endswith(want) for words in map(str.split, lines)):
                        return
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise RuntimeError(f"the {part} ended before it listened: {' '.join(process.args[4:])}")
            time.sleep(0.005)
        raise RuntimeError(f"the {part} did not listen within {START_TIME} s: {' '.join(process.args[4:])}")

    def client(self, argv, folder=None):
        """Runs a client to its end and times it; the result is filled up when the context ends."""
        began = time.monotonic()
        process = self.start("client", argv, folder)
        status = self.reap(process, "client", None)
        self.result["wall"] = time.monotonic() - began
        if status != 0:
            raise RuntimeError(f"ended with {status}: {' '.join(argv)}")
        return self.result

    def reap(self, process, part, limit):
        end = None if limit is None else time.monotonic() + limit
        while end and not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() > end:
                os.kill(process.pid, signal.SIGKILL)
                end = None
            time.sleep(0.005)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.live.remove((process, part))
        # ru_maxrss counts this Python's own pages from before exec; where it is larger than those it is the program's, and exact.
        exact = usage.ru_maxrss * 1024
        own = high_water_of_self()
        self.result["parts"][part] = {"cpu": usage.ru_utime + usage.ru_stime,
                                      "memory": exact if exact > own else self.peak.get(process.pid, exact)}
        return process.returncode

    def sample(self):
        while not self.stop.wait(SAMPLE):
            for process, _ in list(self.live):
                peak = high_water(process.pid)
                if peak:
                    self.peak[process.pid] = peak


def high_water_of_self():
    """Peak resident bytes of this Python."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
